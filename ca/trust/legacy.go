package trust

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"

	"redoubt.internal/ca/denied"
)

// File is a named document, to be written or published.
type File struct {
	Name string
	Data []byte
	// Custom is the TUF custom metadata of a target, nil for none.
	Custom json.RawMessage
}

// Names of the documents. The first two are fixed in sigstore-go.
const (
	TrustedRootName     = "trusted_root.json"
	SigningConfigName   = "signing_config.v0.2.json"
	SigningConfigV2Name = "signing_config_rekor_v2.v0.2.json"
)

func certPEM(certs ...*x509.Certificate) (out []byte) {
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}

func keyPEM(l Log) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(l.Key)
	if err != nil {
		return nil, fmt.Errorf("encoding log key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}

// LegacyFiles returns what clients without trusted_root.json read through the
// SIGSTORE_* variables: fulcio-chain.pem (all chains), rekor.pub, ctfe.pub (the
// newest instance each) and tsa-chain.pem (the newest chain; such clients take
// one leaf only).
func (m Material) LegacyFiles() ([]File, error) {
	if err := m.Validate(); err != nil {
		return nil, err
	}
	var chains []byte
	for i := range m.CAs {
		chains = append(chains, certPEM(m.CAs[len(m.CAs)-1-i].Chain...)...)
	}
	rekor, err := keyPEM(newest(v1Logs(m.Rekor)))
	if err != nil {
		return nil, err
	}
	ct, err := keyPEM(newest(m.CTLogs))
	if err != nil {
		return nil, err
	}
	files := []File{{Name: "fulcio-chain.pem", Data: chains}, {Name: "rekor.pub", Data: rekor}, {Name: "ctfe.pub", Data: ct}}
	if len(m.TSAs) > 0 {
		files = append(files, File{Name: "tsa-chain.pem", Data: certPEM(m.currentTSA().Chain...)})
	}
	return files, nil
}

// v2Keys returns the keys of the logs that speak Rekor v2 only, each by its
// log's name below the domain: rekor-2.pub.
func (m Material) v2Keys() (files []File, err error) {
	for _, l := range v2Logs(m.Rekor) {
		key, err := keyPEM(l)
		if err != nil {
			return nil, err
		}
		files = append(files, File{Name: strings.TrimSuffix(l.Host, "."+m.Domain) + ".pub", Data: key})
	}
	return files, nil
}

// v1Logs leaves out the logs that speak Rekor v2 only.
func v1Logs(logs []Log) []Log {
	return slices.DeleteFunc(slices.Clone(logs), func(l Log) bool { return l.V2 })
}

// v2Logs are the logs that speak Rekor v2 only.
func v2Logs(logs []Log) []Log {
	return slices.DeleteFunc(slices.Clone(logs), func(l Log) bool { return !l.V2 })
}

// newest is the log in use with the latest start.
func newest(logs []Log) Log {
	return slices.MaxFunc(inUse(logs, Log.next), func(a, b Log) int { return a.Start.Compare(b.Start) })
}

// currentTSA is the last one in use.
func (m Material) currentTSA() Authority {
	used := inUse(m.TSAs, Authority.next)
	return used[len(used)-1]
}

// usage is the custom metadata by which clients before trusted_root.json find
// their targets (sigstore/sigstore pkg/tuf, sigstoreCustomMetadata).
func usage(kind, uri string, ended bool) json.RawMessage {
	status := "Active"
	if ended {
		status = "Expired"
	}
	raw, err := json.Marshal(map[string]any{"sigstore": map[string]string{"usage": kind, "status": status, "uri": uri}})
	if err != nil {
		return nil // strings only: cannot happen
	}
	return raw
}

// Targets returns the targets of the TUF repository: trusted root, signing
// configs and the single files of older clients with their custom metadata.
// The signing config for Rekor v2 is left out when there is no TSA.
func (m Material) Targets() ([]File, error) {
	root, err := m.TrustedRoot()
	if err != nil {
		return nil, err
	}
	v1, err := m.SigningConfig(1)
	if err != nil {
		return nil, err
	}
	files := []File{{Name: TrustedRootName, Data: root}, {Name: SigningConfigName, Data: v1}}
	if len(m.TSAs) > 0 {
		v2, err := m.SigningConfig(2)
		if err != nil {
			return nil, err
		}
		files = append(files, File{Name: SigningConfigV2Name, Data: v2})
	}
	if len(m.Denied) > 0 {
		files = append(files, File{Name: denied.FileName, Data: m.Denied})
	}
	legacy, err := m.legacyTargets()
	return append(files, legacy...), err
}

// legacyTargets names the first instance plainly and later ones with a number,
// so that a rotation adds targets and renames none.
func (m Material) legacyTargets() (files []File, err error) {
	numbered := func(format string, i int) string {
		if i == 0 {
			return fmt.Sprintf(format, "")
		}
		return fmt.Sprintf(format, fmt.Sprintf("_%d", i))
	}
	for i, a := range m.CAs {
		custom := usage("Fulcio", "https://fulcio."+m.Domain, !a.End.IsZero())
		last := len(a.Chain) - 1
		files = append(files, File{Name: numbered("fulcio%s.crt.pem", i), Data: certPEM(a.Chain[last]), Custom: custom})
		if last > 0 {
			files = append(files, File{Name: numbered("fulcio_intermediate%s.crt.pem", i), Data: certPEM(a.Chain[:last]...), Custom: custom})
		}
	}
	for i, l := range v1Logs(m.Rekor) {
		key, err := keyPEM(l)
		if err != nil {
			return nil, err
		}
		files = append(files, File{Name: numbered("rekor%s.pub", i), Data: key, Custom: usage("Rekor", "https://"+m.host(l, "rekor"), !l.End.IsZero())})
	}
	for i, l := range m.CTLogs {
		key, err := keyPEM(l)
		if err != nil {
			return nil, err
		}
		files = append(files, File{Name: numbered("ctfe%s.pub", i), Data: key, Custom: usage("CTFE", "https://"+m.host(l, "ct"), !l.End.IsZero())})
	}
	if len(m.TSAs) > 0 {
		a := m.currentTSA() // these clients want exactly one leaf
		custom := usage("TSA", "https://tsa."+m.Domain+"/api/v1/timestamp", false)
		last := len(a.Chain) - 1
		files = append(files, File{Name: "tsa_leaf.crt.pem", Data: certPEM(a.Chain[0]), Custom: custom})
		for i, c := range a.Chain[1:last] {
			files = append(files, File{Name: fmt.Sprintf("tsa_intermediate_%d.crt.pem", i), Data: certPEM(c), Custom: custom})
		}
		files = append(files, File{Name: "tsa_root.crt.pem", Data: certPEM(a.Chain[last]), Custom: custom})
	}
	return files, nil
}
