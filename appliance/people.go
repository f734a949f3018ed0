package main

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/user"
	"slices"
	"strconv"
	"syscall"
	"time"

	"redoubt.internal/ca/identity"
)

// law is who may do what, as the configuration says it and a reload replaces it in one step. Nothing in it changes afterwards.
type law struct {
	people     []Person
	everything bool // the dev profile without people: whoever reaches the control socket may do everything, alone
	approvers  *Approvers
	reading    string // of logs: readOpen or readAuthenticated
	roots      *x509.CertPool
	tokens     *identity.Verifier // nil where nobody is known by a token
}

// Who reads logs over the network (log.read).
const (
	readOpen          = "open"
	readAuthenticated = "authenticated"
)

var errUnknownPerson = errors.New("who asks is not known here")

// localLaw is the law of cfg as far as users of this machine are concerned.
func localLaw(cfg *Config, dir layout) *law {
	l := &law{approvers: cfg.Approvers, reading: orDefault(cfg.Log.Read, readOpen)}
	switch {
	case cfg.People != nil:
		l.people = cfg.People.Members
	case cfg.Profile == profileDev:
		l.everything = true
	default:
		l.people = firstPeople(ownerOf(dir.root))
	}
	return l
}

// ownerOf is the number of the user that owns path, "" where that cannot be seen.
func ownerOf(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return ""
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	return strconv.FormatUint(uint64(st.Uid), 10)
}

// readLaw is the whole law of cfg: with the CAs of client certificates, and the issuers of tokens.
func (in *instance) readLaw(cfg *Config) (*law, error) {
	l := localLaw(cfg, in.dir)
	if cfg.People == nil {
		return l, nil
	}
	if cfg.People.CA != "" {
		chain, err := readChain(in.dir.resolve(cfg.People.CA))
		if err != nil {
			return nil, fmt.Errorf("people.ca: %w", err)
		}
		l.roots = x509.NewCertPool()
		for _, c := range chain {
			l.roots.AddCert(c)
		}
	}
	c := in.identityConfig(cfg)
	c.MetaIssuers = nil // whose name is a pattern is nobody in particular
	wanted := map[string]bool{}
	for _, m := range l.people {
		for _, t := range m.Tokens {
			wanted[t.Issuer] = true
		}
	}
	maps.DeleteFunc(c.OIDCIssuers, func(issuer string, _ identity.IssuerRules) bool { return !wanted[issuer] })
	for issuer, rules := range c.OIDCIssuers {
		rules.ClientID = orDefault(cfg.People.Audience, defaultPeopleAudience)
		c.OIDCIssuers[issuer] = rules
	}
	if len(c.OIDCIssuers) == 0 {
		return l, nil
	}
	var err error
	if l.tokens, err = identity.New(c); err != nil {
		return nil, fmt.Errorf("people: %w", err)
	}
	return l, nil
}

// law is the one in force.
func (in *instance) law() *law {
	if l := in.inForce.Load(); l != nil {
		return l
	}
	return localLaw(in.cfg, in.dir) // an instance whose rooms are not open yet, or never
}

// known gives somebody the name and roles of the member that is holds for.
func (l *law) known(how string, is func(Person) bool) person {
	if l.everything {
		return person{how: how, roles: duties}
	}
	if i := slices.IndexFunc(l.people, is); i >= 0 {
		return person{l.people[i].Name, how, l.people[i].Roles}
	}
	return person{how: how}
}

// user is the user of this machine with that number.
func (l *law) user(uid int) person {
	number, name := strconv.Itoa(uid), ""
	if u, err := user.LookupId(number); err == nil {
		name = u.Username
	}
	return l.known(userActor(uid), func(m Person) bool {
		return slices.Contains(m.Unix, number) || name != "" && slices.Contains(m.Unix, name)
	})
}

// certificate is who showed a client certificate, the first of chain; that its holder has the key is what the handshake proved.
func (l *law) certificate(chain []*x509.Certificate, now time.Time) (person, error) {
	leaf := chain[0]
	sum := fmt.Sprintf("%x", sha256.Sum256(leaf.RawSubjectPublicKeyInfo))
	usable := len(leaf.ExtKeyUsage)+len(leaf.UnknownExtKeyUsage) == 0 || slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageClientAuth) || slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageAny)
	if now.Before(leaf.NotBefore) || now.After(leaf.NotAfter) || !usable {
		return person{}, fmt.Errorf("%w: the client certificate %s is valid from %s to %s, as a client's: %t", errUnknownPerson, sum, leaf.NotBefore.UTC().Format(time.RFC3339), leaf.NotAfter.UTC().Format(time.RFC3339), usable)
	}
	issued := false
	if l.roots != nil {
		above := x509.NewCertPool()
		for _, c := range chain[1:] {
			above.AddCert(c)
		}
		_, err := leaf.Verify(x509.VerifyOptions{Roots: l.roots, Intermediates: above, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
		issued = err == nil
	}
	who := l.named("key:"+sum, func(m Person) bool {
		return slices.ContainsFunc(m.Certificates, func(k PersonCertificate) bool {
			if k.Key != "" {
				return k.Key == sum
			}
			return issued && k.Subject == leaf.Subject.String() && (k.Issuer == "" || k.Issuer == leaf.Issuer.String())
		})
	})
	if who.name == "" {
		return who, fmt.Errorf("%w: no member has the client certificate of key %s", errUnknownPerson, sum)
	}
	return who, nil
}

// token is who an OIDC token speaks for.
func (l *law) token(ctx context.Context, raw string) (person, error) {
	if l.tokens == nil {
		return person{}, fmt.Errorf("%w: nobody is known by a token", errUnknownPerson)
	}
	p, err := l.tokens.Verify(ctx, raw)
	if err != nil {
		return person{}, fmt.Errorf("%w: %w", errUnknownPerson, err)
	}
	who := l.named(fmt.Sprintf("token:%.300q@%.300s", p.Subject, p.TokenIssuer), func(m Person) bool { return slices.Contains(m.Tokens, PersonToken{p.TokenIssuer, p.Subject}) })
	if who.name == "" {
		return who, fmt.Errorf("%w: no member has the account of this token", errUnknownPerson)
	}
	return who, nil
}

// named is known but for the network: what lets everybody do everything is the control socket, which not everybody reaches.
func (l *law) named(how string, is func(Person) bool) person {
	if l.everything {
		return person{how: how}
	}
	return l.known(how, is)
}

// asksForCertificates reports whether a handshake has to ask for one.
func (l *law) asksForCertificates() bool {
	return slices.ContainsFunc(l.people, func(m Person) bool { return len(m.Certificates) > 0 })
}

// peopleSays is what status says about who may do what.
func (l *law) peopleSays() string {
	switch {
	case l.everything:
		return "dev profile without people: whoever reaches the control socket may do everything, alone"
	case l.approvers == nil:
		return fmt.Sprintf("%d known; nobody is configured who could approve, so acts that need approval are refused", len(l.people))
	}
	return fmt.Sprintf("%d known; %d of %d approvers agree to acts that need it", len(l.people), l.approvers.Threshold, len(l.approvers.Members))
}
