package trust

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"path"
	"slices"
)

// notationFiles are the trust store and the trust policy of the Notary Project's tools (trust-store-trust-policy.md), below notation/: with that
// folder's parent as XDG_CONFIG_HOME they are found. The store is called by the domain, so that those of several sites lie side by side.
//
//	notation/truststore/x509/ca/DOMAIN/root-1.pem    the roots of the certificate authority
//	notation/truststore/x509/tsa/DOMAIN/root-1.pem   those of the timestamp authority
//	notation/trustpolicy.json                        who is trusted: the configured C, ST and O
//
// Nothing where no certificates of the profile notation are issued.
func (m Material) notationFiles() ([]File, error) {
	if m.Notation == "" {
		return nil, nil
	}
	if len(m.TSAs) == 0 {
		return nil, fmt.Errorf("%w: Notation needs a timestamp authority", ErrMaterial)
	}
	type verification struct {
		Level           string `json:"level"`
		VerifyTimestamp string `json:"verifyTimestamp"`
	}
	type trustPolicy struct {
		Name       string       `json:"name"`
		Scopes     []string     `json:"registryScopes"`
		Signature  verification `json:"signatureVerification"`
		Stores     []string     `json:"trustStores"`
		Identities []string     `json:"trustedIdentities"`
	}
	policy, err := json.MarshalIndent(struct {
		Version  string        `json:"version"`
		Policies []trustPolicy `json:"trustPolicies"`
	}{"1.0", []trustPolicy{{m.Domain, []string{"*"}, verification{"strict", "always"}, []string{"ca:" + m.Domain, "tsa:" + m.Domain}, []string{"x509.subject: " + m.Notation}}}}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("writing Notation's trust policy: %w", err)
	}
	files := []File{{Name: "notation/trustpolicy.json", Data: append(policy, '\n')}}
	for store, authorities := range map[string][]Authority{"ca": m.CAs, "tsa": m.TSAs} {
		for i, root := range rootsOf(authorities) {
			name := path.Join("notation/truststore/x509", store, m.Domain, fmt.Sprintf("root-%d.pem", i+1))
			files = append(files, File{Name: name, Data: certPEM(root)})
		}
	}
	slices.SortFunc(files, func(a, b File) int { return bytes.Compare([]byte(a.Name), []byte(b.Name)) })
	return files, nil
}

// rootsOf are the roots of authorities, each once.
func rootsOf(all []Authority) (roots []*x509.Certificate) {
	for _, a := range all {
		root := a.Chain[len(a.Chain)-1]
		if !slices.ContainsFunc(roots, root.Equal) {
			roots = append(roots, root)
		}
	}
	return roots
}
