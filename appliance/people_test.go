package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/ca/approval"
	"redoubt.internal/ca/denied"
	"redoubt.internal/ca/identity"
)

// credential makes a certificate and its key below a CA; nil: by itself.
func credential(t *testing.T, name string, until time.Time, usage x509.ExtKeyUsage, above *tls.Certificate) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: until,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{usage}, DNSNames: []string{"localhost"}, BasicConstraintsValid: true, IsCA: above == nil}
	parent, signer := template, crypto.Signer(key)
	if above != nil {
		template.KeyUsage = x509.KeyUsageDigitalSignature
		parent, signer = above.Leaf, above.PrivateKey.(crypto.Signer)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func keySum(c tls.Certificate) string {
	return fmt.Sprintf("%x", sha256.Sum256(c.Leaf.RawSubjectPublicKeyInfo))
}

// peopleSite is a site over TLS whose people are known by certificates and tokens.
type peopleSite struct {
	*served
	alice, bob, ca, stranger, ended, forged tls.Certificate
}

func newPeopleSite(t *testing.T, change func(*Config)) *peopleSite {
	t.Helper()
	later, p := time.Now().Add(time.Hour), &peopleSite{}
	p.ca = credential(t, "people ca", later, x509.ExtKeyUsageAny, nil)
	p.alice = credential(t, "alice", later, x509.ExtKeyUsageClientAuth, nil)
	p.bob = credential(t, "bob", later, x509.ExtKeyUsageClientAuth, &p.ca)
	p.ended = credential(t, "bob", time.Now().Add(-time.Hour), x509.ExtKeyUsageClientAuth, &p.ca)
	p.forged = credential(t, "bob", later, x509.ExtKeyUsageClientAuth, nil)
	p.stranger = credential(t, "mallory", later, x509.ExtKeyUsageClientAuth, &p.ca)
	listener := credential(t, "localhost", later, x509.ExtKeyUsageServerAuth, nil)
	dir := t.TempDir()
	key, err := x509.MarshalPKCS8PrivateKey(listener.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, der []byte) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	p.served = serveState(t, func(c *Config) {
		c.TLS = TLS{Cert: write("cert", "CERTIFICATE", listener.Certificate[0]), Key: write("key", "PRIVATE KEY", key)}
		at, err := ownLoopback(1)
		if err != nil {
			t.Fatal(err)
		}
		c.Services.People = &Service{Listen: at[0], URL: "https://" + at[0]}
		for _, s := range []*Service{c.Services.Rekor, c.Services.CT, c.Services.Console, c.Services.Mirror, c.Services.Fulcio, c.Services.TSA, c.Services.TUF} {
			s.URL = strings.Replace(s.URL, "http:", "https:", 1)
		}
		c.People = &People{CA: write("ca", "CERTIFICATE", p.ca.Certificate[0]), Members: []Person{
			{Name: "alice", Roles: []duty{operator, approver}, Certificates: []PersonCertificate{{Key: keySum(p.alice)}}},
			{Name: "bob", Roles: []duty{viewer}, Certificates: []PersonCertificate{{Subject: "CN=bob"}}},
			{Name: "carol", Roles: []duty{auditor}, Tokens: []PersonToken{{Issuer: c.Services.OIDC.URL, Subject: "4711"}}},
		}}
		if change != nil {
			change(c)
		}
		if err := c.check(); err != nil {
			t.Fatal(err)
		}
	})
	return p
}

// ask sends one request with a client certificate and a token, or without.
func (p *peopleSite) ask(t *testing.T, method, url string, who *tls.Certificate, token, body string) (int, string) {
	t.Helper()
	config := &tls.Config{InsecureSkipVerify: true}
	if who != nil {
		config.Certificates = []tls.Certificate{*who}
	}
	client := http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
	request, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(text)
}

func (p *peopleSite) mint(t *testing.T, subject, audience string) string {
	t.Helper()
	token, err := p.in.issuer.Mint(identity.Claims{Subject: subject, Email: "carol@corp.internal", Audience: audience})
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// TestPeopleOverNetwork: who is known by certificate or token does over the network what the role allows; nobody else does anything.
func TestPeopleOverNetwork(t *testing.T) {
	p := newPeopleSite(t, func(c *Config) { c.Log.Read = readAuthenticated })
	act := p.cfg.Services.People.URL + "/api/v1/act/"
	carol, signing, other := p.mint(t, "4711", defaultPeopleAudience), p.mint(t, "4711", "sigstore"), p.mint(t, "4712", defaultPeopleAudience)
	read := p.cfg.Services.Rekor.URL + "/api/v1/log"
	for _, c := range []struct {
		name, method, url string
		who               *tls.Certificate
		token             string
		want              int
		says              string
	}{
		{"nobody acts", "POST", act + "status", nil, "", 401, ""},
		{"a stranger of the same CA acts", "POST", act + "status", &p.stranger, "", 401, ""},
		{"an ended certificate", "POST", act + "status", &p.ended, "", 401, ""},
		{"the name without the CA", "POST", act + "status", &p.forged, "", 401, ""},
		{"a signing token", "POST", act + "status", nil, signing, 401, ""},
		{"another account's token", "POST", act + "status", nil, other, 401, ""},
		{"a bad token beside a good certificate", "POST", act + "status", &p.alice, "x.y.z", 401, ""},
		{"a viewer reads", "POST", act + "status", &p.bob, "", 200, `"domain"`},
		{"a viewer acts", "POST", act + "keys.check", &p.bob, "", 403, "not yours to do"},
		{"an operator acts", "POST", act + "keys.check", &p.alice, "", 200, `"ok":true`},
		{"an operation nobody has", "POST", act + "open.everything", &p.alice, "", 422, "knows no operation"},
		{"an auditor audits", "POST", act + "audit.list", nil, carol, 200, `"outcome":"refused"`},
		{"an auditor acts", "POST", act + "keys.check", nil, carol, 403, ""},
		{"a rotation alone", "POST", act + "keys.rotate", &p.alice, "", 422, "nobody is configured who could approve"},
		{"a log read by nobody", "GET", read, nil, "", 401, ""},
		{"a log read by a stranger", "GET", read, &p.stranger, "", 401, ""},
		{"a log read by a viewer", "GET", read, &p.bob, "", 200, "rootHash"},
		{"a log read by an account", "GET", read, nil, carol, 200, "rootHash"},
	} {
		body := "{}"
		switch {
		case strings.HasSuffix(c.url, "audit.list"):
			body = `{"from":0,"size":1000}`
		case strings.HasSuffix(c.url, "keys.rotate"):
			body = `{"role":"ct"}`
		}
		if code, text := p.ask(t, c.method, c.url, c.who, c.token, body); code != c.want || !strings.Contains(text, c.says) {
			t.Errorf("%s: %d %.300s", c.name, code, text)
		}
	}
	_, text := p.ask(t, "POST", act+"audit.list", nil, carol, `{"from":0,"size":1000}`)
	if !strings.Contains(text, "bob key:"+keySum(p.bob)) {
		t.Errorf("the audit log does not say whom it refused: %.2000s", text)
	}
	// Every row that reads a log is closed to nobody, every other one is not.
	for _, row := range routeTable {
		svc := p.cfg.Services.all()[row.service]
		if row.face == actFace || row.face == machineFace || row.service == "oidc" {
			continue
		}
		method, path, _ := strings.Cut(row.pattern, " ")
		path = strings.NewReplacer("{$}", "", "{id}", strings.Repeat("0", 64), "{name}", "x").Replace(path)
		code, _ := p.ask(t, method, svc.URL+path, nil, "", "{}")
		if closed := code == http.StatusUnauthorized; closed != (row.face == readFace) && !strings.HasSuffix(path, "signingCert") {
			t.Errorf("%s %s: %d", row.service, row.pattern, code)
		}
	}
}

// TestLogReadOpen is the other side: without log.read nobody is asked.
func TestLogReadOpen(t *testing.T) {
	p := newPeopleSite(t, nil)
	for _, url := range []string{p.cfg.Services.Rekor.URL + "/api/v1/log", p.cfg.Services.Rekor.URL + "/api/v2/checkpoint", p.cfg.Services.CT.URL + "/ct/v1/get-sth"} {
		if code, text := p.ask(t, "GET", url, nil, "", ""); code != http.StatusOK {
			t.Errorf("%s: %d %.200s", url, code, text)
		}
		if code, text := p.ask(t, "GET", url, &p.stranger, "", ""); code != http.StatusOK {
			t.Errorf("%s with a certificate nobody knows: %d %.200s", url, code, text)
		}
	}
}

// governed is a site with three approvers of whom two must agree, and their keys.
func governed(t *testing.T) (*peopleSite, map[string]crypto.Signer) {
	t.Helper()
	keys, a := map[string]crypto.Signer{}, &Approvers{Threshold: 2}
	for _, name := range []string{"alice", "dave", "erin"} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		o, err := approval.NewOperator(name, key.Public())
		if err != nil {
			t.Fatal(err)
		}
		keys[name], a.Members = key, append(a.Members, Approver{Name: name, PublicKey: o.PublicKey})
	}
	return newPeopleSite(t, func(c *Config) {
		c.Approvers, c.CA.Notation = a, &NotationProfile{Country: "DE", State: "Berlin", Organization: "Corp"}
	}), keys
}

// TestEveryActOfSeveral: every operation that the table says takes approvers does not happen without them, and the table says it of
// every one that asks.
func TestEveryActOfSeveral(t *testing.T) {
	p, keys := governed(t)
	in := p.server.instance()
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, keys["alice"])
	if err != nil {
		t.Fatal(err)
	}
	who := person{"alice", "test", []duty{operator}}
	arguments := map[string]any{ // that get as far as to ask; mirror acts have scripts of their own (mirror-people, mirror-inbox)
		"keys.rotate": rotateArgs{Role: "ct"}, "identity.token": tokenArgs{Email: "x@corp.internal"},
		"identity.deny":   denyArgs{Entry: denied.Entry{Issuer: "https://sso.corp.internal", Identity: "x@corp.internal", Reason: "left"}},
		"ca.issue":        notationArgs{CSR: csr, Name: "release"},
		"identity.reveal": revealArgs{Pseudonym: "x@pseudonym.corp.internal"},
	}
	scripted := []string{"keys.finish", "identity.allow", "mirror.unfreeze", "mirror.release", "mirror.accept-exporter"}
	for _, o := range operations() {
		a, _ := operationAccess(o.name)
		args, ok := arguments[o.name]
		if ok != (a.after == byApprovers) && !slices.Contains(scripted, o.name) {
			t.Errorf("%s: after %q, and this test has arguments for it: %t", o.name, a.after, ok)
		}
		if !ok {
			continue
		}
		raw, err := json.Marshal(args)
		if err != nil {
			t.Fatal(err)
		}
		before := in.onRecord().clone()
		if _, err := p.server.operate(t.Context(), o, who, raw); !errors.Is(err, approval.ErrTooFew) || cmdline.ExitCode(err) != exitUnapproved {
			t.Errorf("%s alone: %v", o.name, err)
		}
		if !reflect.DeepEqual(before, in.onRecord().clone()) {
			t.Errorf("%s was refused and changed the record of keys", o.name)
		}
	}
}

// TestApprovalsThatDoNotCount: one's own, the same one's twice, an expired one, one from the future, one of another act, one of
// nobody's; and with two that count the act happens, once.
func TestApprovalsThatDoNotCount(t *testing.T) {
	p, keys := governed(t)
	in := p.server.instance()
	now := time.Now()
	actor := person{"alice", "key:test", []duty{operator}}.actor()
	lines := []string{"what is done"}
	done := 0
	do := func(given ...[]byte) error {
		c, err := in.agree(t.Context(), actor, "test.act", lines, approvalArgs{Given: given})
		if err == nil {
			done++
			err = c.finish()
		}
		return err
	}
	act, err := approval.Round(in.authorityDB, approval.Act{Kind: "test.act", Domain: in.cfg.Domain, Proposer: "alice", Lines: lines})
	if err != nil {
		t.Fatal(err)
	}
	sign := func(act approval.Act, name string, key crypto.Signer, at time.Time) []byte {
		a, err := approval.Sign(act, name, key, at)
		if err != nil {
			t.Fatal(err)
		}
		data, err := a.Encode()
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	another := act
	another.Lines = append([]string{"something else"}, act.Lines[1:]...)
	byNobody := act
	byNobody.Proposer = ""
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	own, dave := sign(act, "alice", keys["alice"], now), sign(act, "dave", keys["dave"], now)
	expired := sign(act, "erin", keys["erin"], now.Add(-time.Duration(defaultApprovalLife)-time.Minute))
	for _, c := range []struct {
		name  string
		given [][]byte
		want  error
	}{
		{"none", nil, approval.ErrTooFew},
		{"an approval of another act", [][]byte{dave, sign(another, "erin", keys["erin"], now)}, approval.ErrApproval},
		{"an approval of the act as if nobody proposed it", [][]byte{dave, sign(byNobody, "erin", keys["erin"], now)}, approval.ErrApproval},
		{"somebody else's key", [][]byte{dave, sign(act, "erin", stranger, now)}, approval.ErrApproval},
		{"somebody who is no approver", [][]byte{dave, sign(act, "mallory", stranger, now)}, approval.ErrApproval},
		{"one's own", [][]byte{dave, own}, approval.ErrTooFew},
		{"the same one's twice", [][]byte{dave, sign(act, "dave", keys["dave"], now.Add(-time.Minute))}, approval.ErrTooFew},
		{"an expired one", [][]byte{dave, expired}, approval.ErrTooFew},
		{"one from a time to come", [][]byte{dave, sign(act, "erin", keys["erin"], now.Add(24*time.Hour))}, approval.ErrTooFew},
	} {
		if err := do(c.given...); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if done > 0 {
		t.Fatalf("done %d times without two approvals", done)
	}
	if err := do(expired); err == nil || !strings.Contains(err.Error(), "too old") {
		t.Errorf("the reason does not say that it is too old: %v", err)
	}
	if err := do(dave, sign(act, "erin", keys["erin"], now)); err != nil || done != 1 {
		t.Fatalf("with two that count: %v", err)
	}
	if err := do(dave, sign(act, "erin", keys["erin"], now)); !errors.Is(err, approval.ErrApproval) || done != 1 {
		t.Errorf("the approvals of one time did it twice: %v", err)
	}
}

// TestStrangersAreRecordedSparingly: what anybody can ask for does not fill the disk; what people who are known are refused is all there.
func TestStrangersAreRecordedSparingly(t *testing.T) {
	s := serveState(t, nil)
	in := s.server.instance()
	size := in.auditLog.Head().Size
	for range 20 {
		if err := in.permit(context.Background(), person{how: "uid:1"}, "keys.check"); !errors.Is(err, errNotAllowed) {
			t.Fatal(err)
		}
	}
	if n := in.auditLog.Head().Size - size; n != 1 {
		t.Errorf("%d records of 20 refusals of a stranger", n)
	}
	for range 3 {
		in.permit(context.Background(), person{"eve", "uid:2", []duty{viewer}}, "keys.check")
	}
	if n := in.auditLog.Head().Size - size; n != 4 {
		t.Errorf("%d records, want 4", n)
	}
	var page bytes.Buffer
	if err := permissionsPage(&page); err != nil || strings.Count(page.String(), "\n") < 150 {
		t.Errorf("%v: %s", err, page.String())
	}
}
