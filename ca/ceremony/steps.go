package ceremony

import (
	"crypto/x509"
	"fmt"
)

// act is what a step does.
type act int

const (
	actAbsent          act = iota + 1 // no key of the plan exists
	actRehearse                       // the certificates would pass lint, over throwaway keys in memory
	actAuthority                      // the existing key is opened and compared with its certificate
	actGenerate                       // one key, in its token
	actRequest                        // one certificate request for the other side
	actIssue                          // one certificate
	actReopen                         // a key made earlier on this side is found again
	actTakeKey                        // the record of a key of the other side
	actTakeCertificate                // a certificate of the other side
	actCheckKeys                      // every key at hand signs
	actBackup                         // the declared copy, as the operator states it
	actTrust                          // what clients must learn
	actRegister                       // the register's next entry
)

// plannedStep is one step as the plan implies it: what Run does and Verify expects.
type plannedStep struct {
	act  act
	name string
	key  roleKey     // actGenerate, actReopen, actTakeKey
	cert certificate // actRequest, actIssue, actTakeCertificate
}

// planned lists the steps of a ceremony, or of one part of it, in their order.
func planned(p *Plan, part string) (steps []plannedStep) {
	add := func(a act, name string) *plannedStep {
		steps = append(steps, plannedStep{act: a, name: name})
		return &steps[len(steps)-1]
	}
	if p.Kind == Custodians {
		add(actRegister, "changing the register of custodians: "+p.Custodians.Action)
		return steps
	}
	mine, certificates := here(p, part), p.certificates()
	if part == PartAcceptance {
		for _, k := range mine {
			add(actReopen, fmt.Sprintf("opening %s key again", k.role)).key = k
		}
		for _, k := range here(p, PartCertificates) {
			add(actTakeKey, fmt.Sprintf("taking in the record of the %s key", k.role)).key = k
		}
		for _, c := range certificates {
			if offline(c.issuer) {
				add(actTakeCertificate, fmt.Sprintf("taking in %s certificate", c.role)).cert = c
			} else { // below an intermediate authority of this side
				add(actIssue, fmt.Sprintf("issuing %s certificate", c.role)).cert = c
			}
		}
	} else {
		add(actAbsent, "checking that no key exists")
		add(actRehearse, "rehearsing the certificates")
		if authorityAt(p, part) {
			add(actAuthority, "opening the authority's key")
		}
		for _, k := range mine {
			add(actGenerate, fmt.Sprintf("generating %s key (%s)", k.role, k.Algorithm)).key = k
		}
		for _, c := range certificates {
			if part == PartCertificates && !offline(c.issuer) {
				continue
			}
			if part != PartRequests {
				add(actIssue, fmt.Sprintf("issuing %s certificate", c.role)).cert = c
			} else if has(mine, c.role) && offline(c.issuer) {
				add(actRequest, fmt.Sprintf("requesting %s certificate", c.role)).cert = c
			}
		}
	}
	add(actCheckKeys, "checking every key")
	if p.Backup != nil && part != PartRequests {
		add(actBackup, "recording the declared backup")
	}
	if len(certificates) > 0 && part != PartRequests {
		add(actTrust, "stating what clients must learn")
	}
	return steps
}

// here lists the keys that are on this side of the gap.
func here(p *Plan, part string) []roleKey {
	var out []roleKey
	for _, k := range p.roles() {
		if part == PartWhole || (part == PartCertificates) == offline(k.role) {
			out = append(out, k)
		}
	}
	return out
}

// offline tells the roles whose keys are on the machine without network.
func offline(role string) bool {
	return role == RoleRoot || role == RoleSuccessor || role == RoleAuthority
}

// authorityAt tells whether the existing key is at hand in a part.
func authorityAt(p *Plan, part string) bool {
	return p.Authority != nil && (part == PartWhole || part == PartCertificates)
}

func has(keys []roleKey, role string) bool {
	for _, k := range keys {
		if k.role == role {
			return true
		}
	}
	return false
}

// sealer is the role whose key signs the transcript: the root where it is at
// hand, else the authority, else the audit log's key, else the first key made.
// A change of custodians has no key but theirs: "".
func sealer(p *Plan, part string) string {
	keys := here(p, part)
	switch {
	case has(keys, RoleRoot):
		return RoleRoot
	case authorityAt(p, part):
		return RoleAuthority
	case has(keys, RoleAudit):
		return RoleAudit
	case len(keys) > 0:
		return keys[0].role
	}
	return ""
}

// chainOf is the chain of a certificate, its own first, the root (or the
// authority's chain) last.
func chainOf(p *Plan, certs map[string]*x509.Certificate, authority []*x509.Certificate, role string) []*x509.Certificate {
	issuers := map[string]string{}
	for _, c := range p.certificates() {
		issuers[c.role] = c.issuer
	}
	var chain []*x509.Certificate
	for at := role; issuers[at] != "" && certs[at] != nil; at = issuers[at] {
		chain = append(chain, certs[at])
		if issuers[at] == RoleAuthority {
			return append(chain, authority...)
		}
		if issuers[at] == at {
			break
		}
	}
	return chain
}

// trustChanges says what each certificate means for the trusted root clients
// have. The window of the instance before ends when its keeper says so; that is
// no matter of certificates.
func trustChanges(p *Plan, certs map[string]*x509.Certificate, authority []*x509.Certificate) []TrustChange {
	changes := []TrustChange{}
	for _, c := range p.certificates() {
		change := ""
		switch c.role {
		case RoleIssuing, RoleTSA:
			change = "add"
		case CrossRootByAuthority, CrossAuthorityByRoot, CrossSubjectAuthority:
			change = "bridge"
		case RoleSuccessor, CrossSuccessorByRoot:
			change = "hold"
		default:
			continue
		}
		cert := certs[c.role]
		if cert == nil { // the other side makes it
			continue
		}
		t := TrustChange{Change: change, Role: c.role, From: cert.NotBefore, Until: cert.NotAfter}
		for _, above := range chainOf(p, certs, authority, c.role) {
			t.Chain = append(t.Chain, hexSum(above.Raw))
		}
		changes = append(changes, t)
	}
	return changes
}
