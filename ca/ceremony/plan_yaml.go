package ceremony

import (
	"fmt"
	"strings"
)

// writer puts a plan together line by line.
type writer struct{ strings.Builder }

func (w *writer) line(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }

// block writes a text of several lines as a literal scalar.
func (w *writer) block(indent, name, text string) {
	if text == "" || strings.Trim(text, "\n")+"\n" != text || strings.ContainsAny(text, "\r\t") {
		w.line("%s%s: %s", indent, name, doubleQuote(text))
		return
	}
	w.line("%s%s: |", indent, name)
	for line := range strings.Lines(text) {
		w.WriteString(indent + "  " + line)
	}
}

var kindPurpose = map[Kind]string{
	Found:       "every key and certificate of a new deployment, in one place",
	OfflineRoot: "a new deployment whose root key is made and used on a machine without network",
	Rotate:      "new keys of the roles below, certified by the authority where they need a certificate",
	RotateRoot:  "a new root, and what is below it; old and new root sign each other",
	CrossSign:   "a certificate by our authority over another party's root",
	Custodians:  "a change of the people who approve ceremonies",
}

// YAML writes the plan as the commented file an operator edits and reviews.
// ParsePlan reads it back to an equal plan.
func (p *Plan) YAML() []byte {
	w := &writer{}
	w.line("# Plan of a Redoubt key ceremony: the only input of `redoubt ceremony rehearse` and `run`.")
	w.line("# It is copied into the signed transcript and holds no secret: PINs and passphrases come from files.")
	w.line("# Every octet counts, comments too: operators approve the SHA-256 of this file and read it aloud.")
	w.line("")
	w.line("# Format of this file.")
	w.line("version: %d", p.Version)
	w.line("# What the ceremony is for: found, offline-root, rotate, rotate-root, cross-sign or custodians.")
	w.line("# This one: %s.", orWord(kindPurpose[p.Kind], "unknown"))
	w.line("kind: %s", quote(string(p.Kind)))
	w.line("# DNS domain of the deployment; part of every log's name for good.")
	w.line("domain: %s", quote(p.Domain))
	w.line("# dev or production. In production a root whose token dies with one machine (a TPM) is refused")
	w.line("# unless a root-successor in another token is made and cross-signed in the same ceremony.")
	w.line("profile: %s", quote(p.Profile))
	if p.Organization != "" {
		w.line("# O of every certificate's subject.")
		w.line("organization: %s", quote(p.Organization))
	}
	w.line("# notBefore lies this many seconds before the ceremony, for clients whose clocks are late; 0 to 86400.")
	w.line("backdateSeconds: %d", p.BackdateSeconds)
	p.writeOperators(w)
	p.writeExisting(w)
	p.writeKeys(w)
	p.writeCertificates(w)
	p.writeBackup(w)
	if p.Custodians != nil {
		p.Custodians.write(w)
	}
	return []byte(w.String())
}

func (p *Plan) writeOperators(w *writer) {
	if p.Operators == nil {
		if p.Kind != Custodians {
			w.line("# operators: left out, so nobody is asked. With it, run wants as many approvals as threshold says:")
			w.line("#   threshold: 2")
			w.line("#   members:")
			w.line("#   - name: 'alice'       # as `redoubt ceremony operator new` prints them")
			w.line("#     publicKey: 'MFkw...'")
		}
		return
	}
	w.line("# Who approves. run wants signed approvals of this very file by threshold different operators")
	w.line("# before it touches any token; the same people sign the transcript afterwards.")
	w.line("operators:")
	p.Operators.write(w, "  ")
}

func (o *Operators) write(w *writer, indent string) {
	if o.Register != "" {
		w.line("%s# These are the custodians as of this entry of the register: its SHA-256.", indent)
		w.line("%sregister: %s", indent, quote(o.Register))
	}
	w.line("%s# How many different operators must approve.", indent)
	w.line("%sthreshold: %d", indent, o.Threshold)
	w.line("%s# name: a-z, 0-9, dot, hyphen. publicKey: base64 SubjectPublicKeyInfo, ECDSA P-256 or Ed25519.", indent)
	w.line("%smembers:", indent)
	for _, m := range o.Members {
		w.line("%s- name: %s", indent, quote(m.Name))
		w.line("%s  publicKey: %s", indent, quote(m.PublicKey))
	}
}

func (p *Plan) writeExisting(w *writer) {
	if p.Authority != nil {
		w.line("# The existing key that signs what is made here. uri: where it is. chain: its certificate first, the")
		w.line("# root last, PEM; the key found at uri must be the certificate's.")
		w.line("authority:")
		w.line("  uri: %s", quote(p.Authority.URI))
		w.block("  ", "chain", p.Authority.Chain)
		w.line("  # true when that key is on a machine without network: requests out, certificates back, by removable medium.")
		w.line("  offline: %t", p.Authority.Offline)
	}
	if p.Subject != nil {
		w.line("# The other party's self-signed root, PEM. Compare its fingerprint with them before you approve.")
		w.line("subject:")
		w.block("  ", "certificate", p.Subject.Certificate)
	}
}

func (p *Plan) writeKeys(w *writer) {
	if len(p.roles()) == 0 {
		return
	}
	w.line("# One key per role, made in the token its URI names; no key serves two roles, and a key that exists is")
	w.line("# never replaced. uri: soft:FILE, pkcs11:token=T;object=NAME?module-path=FILE&pin-source=FILE, or another")
	w.line("# scheme that keys.roles of `redoubt docs config` names; pin-value is refused. algorithm: ecdsa-p256, ecdsa-p384, rsa-3072,")
	w.line("# rsa-4096 or ed25519; rekor, ct and tsa are ecdsa-p256, because that is what clients verify.")
	if p.Kind == OfflineRoot {
		w.line("# The root's URI is read on the offline machine only, the others on the online machine only.")
	}
	w.line("keys:")
	for _, k := range p.roles() {
		w.line("  # %s", roleMeaning(k.role))
		w.line("  %s:", k.role)
		w.line("    uri: %s", quote(k.URI))
		w.line("    algorithm: %s", quote(string(k.Algorithm)))
	}
}

// roleMeaning says what a role's key signs.
func roleMeaning(role string) string {
	switch baseRole(role) {
	case RoleRoot:
		return "self-signed anchor of both chains; used by ceremonies only"
	case RoleSuccessor:
		return "the next root, in another token, cross-signed now for the day this root is lost"
	case RoleIssuing:
		return "code-signing certificates"
	case RoleTSAIntermediate:
		return "the time-stamping certificate"
	case RoleTSA:
		return "time stamps"
	case RoleRekor:
		return "heads of an artifact log"
	case RoleCT:
		return "heads and SCTs of the certificate log"
	case RoleAudit:
		return "heads of the audit log"
	case RoleTUF:
		return "the trust repository"
	case RoleOIDC:
		return "tokens of the built-in issuer"
	case RoleExporter:
		return "parcels of the mirror"
	}
	return "unknown"
}

func (p *Plan) writeCertificates(w *writer) {
	c := p.Certificates
	if len(p.certificates()) == 0 {
		return
	}
	w.line("# What is issued over the keys. commonName: CN of the subject. days: of validity; nothing outlives its issuer.")
	w.line("certificates:")
	for _, e := range []struct {
		role string
		plan *CertificatePlan
	}{{RoleRoot, c.Root}, {RoleSuccessor, c.Successor}, {RoleIssuing, c.Issuing}, {RoleTSAIntermediate, c.TSAIntermediate}, {RoleTSA, c.TSA}} {
		if e.plan != nil {
			w.line("  %s:", e.role)
			w.line("    commonName: %s", quote(e.plan.CommonName))
			w.line("    days: %d", e.plan.Days)
		}
	}
	if c.Cross != nil {
		w.line("  # Cross certificates carry the name of the root they speak for.")
		w.line("  cross:")
		w.line("    days: %d", c.Cross.Days)
	}
}

func (p *Plan) writeBackup(w *writer) {
	if len(p.roles()) == 0 {
		return
	}
	w.line("# How the token vendor's own means copy the new keys: none, wrapped (a blob under the vendor's wrapping")
	w.line("# key) or cloned (a second token). Nothing here extracts a key. With a copy, name its holders and its place,")
	w.line("# and give run the operator's statement of what was done (--backup-statement).")
	b := p.Backup
	if b == nil {
		w.line("# backup: left out, which is none.")
		return
	}
	w.line("backup:")
	w.line("  profile: %s", quote(b.Profile))
	if len(b.Holders) > 0 {
		w.line("  holders:")
		for _, h := range b.Holders {
			w.line("  - %s", quote(h))
		}
	}
	if b.Place != "" {
		w.line("  place: %s", quote(b.Place))
	}
}

func orWord(s, or string) string {
	if s == "" {
		return or
	}
	return s
}

// quote writes a YAML single-quoted scalar of one line.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// doubleQuote writes a YAML double-quoted scalar, for texts that are odd.
func doubleQuote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r < 0x20 || r == 0x7f:
			fmt.Fprintf(&b, `\x%02x`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
