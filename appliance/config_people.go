package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// People are who may do what here: the members, and how it is known who somebody is. Where it is left out, the dev profile lets whoever
// reaches the control socket do everything; the production profile knows root and the user that owns the state directory, as init
// writes them. Acts that need approval (`redoubt docs permissions`) then wait for approvers, except in the dev profile without people.
type People struct {
	// Socket is a socket that every user of this machine may connect to, such as /run/redoubt/people.sock; the kernel says who it is, and
	// members alone are answered (`redoubt --socket FILE`). Left out, there is only DIR/run/redoubt.sock, for root and the server's user.
	Socket string `yaml:"socket,omitempty"`
	// CA is a PEM file of the CAs that members' client certificates are issued by, such as those of PIV cards. Certificates named by key
	// need none.
	CA string `yaml:"ca,omitempty"`
	// Audience is what OIDC tokens of members must be made for (default redoubt-people). It is another than that of signing tokens,
	// so that a token handed to a signing service administers nothing.
	Audience string `yaml:"audience,omitempty"`
	// Members are the people, and services that act for them.
	Members []Person `yaml:"members"`
}

// Person is one member: a name, roles, and every way by which it is known to be this one.
type Person struct {
	// Name as the audit log has it; lower-case letters, digits, dot and hyphen. An approver of the same name is the same person: what
	// this one asks for, that one does not approve.
	Name string `yaml:"name"`
	// Roles are viewer (reads state), auditor (reads the record too), operator (acts), approver (agrees to acts) and custodian (keeps
	// backups and keys' shares). Each reads state.
	Roles []duty `yaml:"roles"`
	// Unix are users of this machine, by name or number, as the kernel tells them of a local socket.
	Unix []string `yaml:"unix,omitempty"`
	// Certificates are client certificates, over TLS.
	Certificates []PersonCertificate `yaml:"certificates,omitempty"`
	// Tokens are accounts at the providers of oidc-issuers, whose tokens come as Authorization: Bearer.
	Tokens []PersonToken `yaml:"tokens,omitempty"`
}

// PersonCertificate says which client certificates are a person's: those of one key, or those one CA issued to one name.
type PersonCertificate struct {
	// Key is the SHA-256 of the SubjectPublicKeyInfo, 64 hex digits; such a certificate needs no CA.
	Key string `yaml:"key,omitempty"`
	// Subject is the subject's distinguished name as RFC 2253 spells it (openssl x509 -subject -nameopt RFC2253), below people.ca.
	Subject string `yaml:"subject,omitempty"`
	// Issuer is the issuer's, for where people.ca has several.
	Issuer string `yaml:"issuer,omitempty"`
}

// PersonToken is one account at one provider.
type PersonToken struct {
	// Issuer is its URL; it stands under oidc-issuers.
	Issuer string `yaml:"issuer"`
	// Subject is the sub claim. Never an e-mail address, which may pass to somebody else.
	Subject string `yaml:"subject"`
}

const (
	defaultPeopleAudience = "redoubt-people"
	maxPeople             = 500
)

var personName = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,38}[a-z0-9])?$`)

func (p *People) check(c *Config) (problems []error) {
	if p == nil {
		return nil
	}
	bad := func(format string, args ...any) { problems = append(problems, fmt.Errorf("people"+format, args...)) }
	if p.Socket != "" && (!filepath.IsAbs(p.Socket) || len(p.Socket) > 100) {
		bad(".socket: want an absolute path of at most 100 octets")
	}
	if len(p.Members) == 0 || len(p.Members) > maxPeople {
		bad(".members: want 1 to %d", maxPeople)
	}
	owner := map[string]string{} // by way of authentication: no two people share one
	for i, m := range p.Members {
		at := fmt.Sprintf(".members[%d]", i)
		if !personName.MatchString(m.Name) {
			bad("%s.name: %q; expected up to 40 of a-z, 0-9, dot and hyphen", at, m.Name)
		}
		if len(m.Roles) == 0 {
			bad("%s.roles: none; roles are %v", at, duties)
		}
		for _, r := range m.Roles {
			if !slices.Contains(duties, r) {
				bad("%s.roles: %q is none; roles are %v", at, r, duties)
			}
		}
		ways, err := m.ways(c)
		if err != nil {
			bad("%s: %w", at, err)
		}
		for _, way := range append(ways, "name "+m.Name) {
			if other, taken := owner[way]; taken {
				bad("%s: %s and %s are both known by %s", at, other, m.Name, way)
			}
			owner[way] = m.Name
		}
	}
	return problems
}

// ways lists how a member is told from others.
func (m Person) ways(c *Config) (ways []string, err error) {
	for _, u := range m.Unix {
		if u == "" || strings.ContainsAny(u, " :()") {
			return nil, fmt.Errorf("unix: %q is no user name or number", u)
		}
		ways = append(ways, "unix "+u)
	}
	for _, k := range m.Certificates {
		sum, err := hex.DecodeString(k.Key)
		switch {
		case k.Key != "" && (err != nil || len(sum) != 32 || k.Key != strings.ToLower(k.Key) || k.Subject+k.Issuer != ""):
			return nil, errors.New("certificates: key is the SHA-256 of a SubjectPublicKeyInfo, 64 lower-case hex digits, and stands alone")
		case k.Key == "" && (k.Subject == "" || c.People.CA == ""):
			return nil, errors.New("certificates: want key, or subject together with people.ca")
		}
		ways = append(ways, fmt.Sprintf("certificate %s%s %s", k.Key, k.Subject, k.Issuer))
	}
	for _, t := range m.Tokens {
		if _, known := c.OIDCIssuers[t.Issuer]; t.Subject == "" || !known && !c.Issuer.Enabled {
			return nil, fmt.Errorf("tokens: want a subject, and an issuer of oidc-issuers: %q", t.Issuer)
		}
		ways = append(ways, "token "+t.Issuer+" "+t.Subject)
	}
	if len(ways) == 0 {
		return nil, errors.New("nothing says who this is: want unix, certificates or tokens")
	}
	return ways, nil
}

// firstPeople are whom the production profile knows before anybody wrote people: root, and the user that runs the server.
func firstPeople(owner string) []Person {
	all := []duty{viewer, auditor, operator, custodian}
	people := []Person{{Name: "root", Roles: all, Unix: []string{"0"}}}
	if owner != "" && owner != "0" && owner != "root" {
		people = append(people, Person{Name: "service", Roles: all, Unix: []string{owner}})
	}
	return people
}
