package pkcs11

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"redoubt.internal/hsm"
)

func TestParseURI(t *testing.T) {
	u, err := parseURI("pkcs11:token=My%20Token;object=a%3Bb;id=%01%ff;serial=12;type=private?module-path=/usr/lib/m.so&pin-source=file:/etc/pin%20file")
	if err != nil {
		t.Fatal(err)
	}
	path, err := u.pinPath()
	if u.token != "My Token" || u.object != "a;b" || !bytes.Equal(u.id, []byte{1, 0xff}) || u.serial != "12" || u.modulePath != "/usr/lib/m.so" || path != "/etc/pin file" || err != nil {
		t.Errorf("got %+v, pin %q, %v", u, path, err)
	}
}

func TestParseURIRefuses(t *testing.T) {
	for _, s := range []string{
		"", "pkcs11", "PKCS11:token=a", "soft:x", "pkcs11:token", "pkcs11:tokne=a", "pkcs11:token=a;token=b", "pkcs11:token=%zz", "pkcs11:slot-id=1",
		"pkcs11:token=a;", "pkcs11:token=a?", "pkcs11:token=a?module-path=relative.so", "pkcs11:token=a?pin-source=/p&pin-value=1", "pkcs11:object=%00",
		"pkcs11:id=", "pkcs11:type=cert;object=a", "pkcs11:token=a?pin=1", "pkcs11:object=a#b?x", "pkcs11:" + strings.Repeat("a", maxURI),
	} {
		if _, err := parseURI(s); !errors.Is(err, hsm.ErrUnsupported) {
			t.Errorf("%.40q: %v", s, err)
		}
	}
	for _, s := range []string{"pkcs11:?pin-source=pin", "pkcs11:?pin-source=|cat%20/etc/pin", "pkcs11:?pin-source=file://elsewhere/pin", "pkcs11:?pin-source=https://x/pin"} {
		u, err := parseURI(s)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := u.pinPath(); !errors.Is(err, hsm.ErrUnsupported) {
			t.Errorf("%s: %v", s, err)
		}
	}
}

func TestPINNeverShows(t *testing.T) {
	for _, s := range []string{"pkcs11:token=%zz?pin-value=s3cret", "pkcs11:token=a?pin-value=s3cret&pin-source=/p", "pkcs11:token=a?pin-value=s3cret&pin-value=s3cret", "pkcs11:tokne=a?pin-value=s3cret"} {
		if _, err := parseURI(s); err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v", s, err)
		}
	}
	if got := redact("pkcs11:a=b?pin-value=s3cret&module-path=/m&pin-value=other"); got != "pkcs11:a=b?pin-value=***&module-path=/m&pin-value=***" {
		t.Error(got)
	}
}

func TestCanonicalURIReadsBack(t *testing.T) {
	s := canonicalURI("a;b =%é", "00\x01", "käy/1", []byte{0, 0x25, 0xff}, "/usr/lib/my module.so")
	u, err := parseURI(s)
	if err != nil {
		t.Fatalf("%s: %v", s, err)
	}
	if u.token != "a;b =%é" || u.serial != "00\x01" || u.object != "käy/1" || !bytes.Equal(u.id, []byte{0, 0x25, 0xff}) || u.modulePath != "/usr/lib/my module.so" {
		t.Errorf("%s reads back as %+v", s, u)
	}
}

// Reading the PIN obeys the mark of a refused one, from whatever form the file has.
func TestPINSource(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pin")
	if err := os.WriteFile(file, []byte("1234\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	open := func(read func(string) ([]byte, error)) *pinSource {
		t.Helper()
		p, err := newPINSource(Config{PINFile: file, ReadPIN: read}, &uri{})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	p := open(nil)
	pin, err := p.read()
	if err != nil || string(pin) != "1234" {
		t.Fatalf("%q, %v", pin, err)
	}
	if err := p.refuse(pin); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*pinSource{p, open(nil)} { // this process and the next
		if _, err := s.read(); !errors.Is(err, hsm.ErrBadPIN) {
			t.Errorf("refused PIN: %v", err)
		}
	}
	if pin, err := open(func(string) ([]byte, error) { return []byte("5678"), nil }).read(); err != nil || string(pin) != "5678" {
		t.Errorf("another form of the file: %q, %v", pin, err)
	}
	if err := p.accept(); err != nil {
		t.Fatal(err)
	}
	if _, err := p.read(); err != nil {
		t.Errorf("after a good login: %v", err)
	}
	if err := os.WriteFile(file, []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := open(nil).read(); err == nil {
		t.Error("took an empty PIN")
	}
	value, err := newPINSource(Config{AllowPINValue: true}, &uri{pinValue: "99"}) // development: memory only
	if err != nil {
		t.Fatal(err)
	}
	if err := value.refuse([]byte("99")); err != nil {
		t.Fatal(err)
	}
	if _, err := value.read(); !errors.Is(err, hsm.ErrBadPIN) {
		t.Errorf("pin-value: %v", err)
	}
}

func FuzzURI(f *testing.F) {
	f.Add("pkcs11:token=a;object=b;id=%01?module-path=/m.so&pin-source=/p")
	f.Add("pkcs11:?pin-value=x")
	f.Fuzz(func(t *testing.T, s string) {
		u, err := parseURI(s)
		if err != nil {
			return
		}
		_, _ = u.pinPath()
		_, _ = u.module([]string{"/usr/lib/softhsm/"})
		c := canonicalURI(u.token, u.serial, u.object, u.id, u.modulePath)
		v, err := parseURI(c)
		if len(c) > maxURI || u.modulePath == "" { // escaping may lengthen it past the limit
			return
		}
		if err != nil || v.token != u.token || v.object != u.object || !bytes.Equal(v.id, u.id) || v.modulePath != u.modulePath {
			t.Fatalf("%q became %q: %v", s, c, err)
		}
	})
}
