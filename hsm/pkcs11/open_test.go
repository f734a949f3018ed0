//go:build cgo

package pkcs11

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"redoubt.internal/hsm"
)

func TestOpenRefusals(t *testing.T) {
	s := newStore(t, "a", "twin", "twin")
	at := func(token, module string) Config {
		return Config{URI: "pkcs11:" + token + "?module-path=" + module, PINFile: s.pin}
	}
	notModule := filepath.Join(s.base, "not-a-module.so")
	must(t, os.WriteFile(notModule, []byte("no ELF"), 0o600))
	conf := os.Getenv("SOFTHSM2_CONF")

	_, err := Open(at("token=twin", softhsm))
	failsWith(t, err, hsm.ErrAmbiguous, "2 tokens match", "serial=", softhsm)
	_, err = Open(at("token=absent", softhsm))
	failsWith(t, err, hsm.ErrNotFound, `"a" serial`, `"twin" serial`, softhsm, "SOFTHSM2_CONF="+conf)
	_, err = Open(at("serial=0000000000000000", softhsm))
	failsWith(t, err, hsm.ErrNotFound, "tokens seen")
	_, err = Open(at("token=a;serial=0000000000000000", softhsm))
	failsWith(t, err, hsm.ErrNotFound)
	_, err = Open(at("object=x", softhsm))
	failsWith(t, err, hsm.ErrUnsupported, "neither token nor serial")
	_, err = Open(at("token=a", "/usr/lib/softhsm/absent.so"))
	failsWith(t, err, hsm.ErrUnsupported, "/usr/lib/softhsm/absent.so", "modules found: "+softhsm)
	_, err = Open(at("token=a", "/usr/lib/softhsm/libsofthsm3.so"))
	failsWith(t, err, hsm.ErrUnsupported, "libsofthsm3.so (SOFTHSM2_CONF="+conf+")", "modules found: "+softhsm)
	_, err = Open(at("token=a", "libsofthsm2.so"))
	failsWith(t, err, hsm.ErrUnsupported)
	_, err = Open(at("token=a", notModule))
	failsWith(t, err, hsm.ErrUnsupported, "not allowed")
	c := at("token=a", notModule)
	c.AllowedModules = []string{s.base + "/"}
	_, err = Open(c)
	failsWith(t, err, hsm.ErrUnavailable, "cannot be loaded")
	c.AllowedModules = []string{""}
	if _, err = Open(c); err == nil {
		t.Error("took an empty entry in the list of modules")
	}
	_, err = Open(at("token=a", "/usr/lib/softhsm/../softhsm/libsofthsm2.so"))
	failsWith(t, err, hsm.ErrUnsupported)
	_, err = Open(at("token=a;slot-id=1", softhsm))
	failsWith(t, err, hsm.ErrUnsupported, "slot-id")
	_, err = Open(Config{URI: "pkcs11:token=a?module-path=" + softhsm})
	if err == nil || !strings.Contains(err.Error(), "no PIN") {
		t.Errorf("without a PIN: %v", err)
	}
	must(t, os.Chmod(s.pin, 0o644))
	_, err = Open(at("token=a", softhsm))
	failsWith(t, err, hsm.ErrInsecureKey, s.pin)

	_, err = Open(Config{URI: "pkcs11:token=a?module-path=" + softhsm + "&pin-value=" + testPIN})
	failsWith(t, err, hsm.ErrUnsupported, "pin-source")
	tok := open(t, Config{URI: "pkcs11:token=a?module-path=" + softhsm + "&pin-value=" + testPIN, AllowPINValue: true})
	key := generate(t, tok, "k", hsm.ECDSAP256)
	if strings.Contains(key.Info().URI, testPIN) {
		t.Error("Info shows the PIN")
	}
}

func TestUnsetModuleConfigurationIsNamed(t *testing.T) {
	s := newStore(t)
	_, err := Open(s.config("absent"))
	failsWith(t, err, hsm.ErrNotFound, "tokens seen: none", "SOFTHSM2_CONF=")
}

func TestTokenBySerial(t *testing.T) {
	s := newStore(t, "twin", "twin")
	c := intruder(t)
	must(t, c.Initialize())
	ti, err := c.GetTokenInfo(slotOf(t, c, "twin"))
	must(t, err)
	must(t, c.Finalize())
	tok := open(t, Config{URI: "pkcs11:serial=" + trim(ti.SerialNumber) + "?module-path=" + softhsm, PINFile: s.pin})
	key := generate(t, tok, "k", hsm.ECDSAP256)
	again, err := tok.Signer(t.Context(), key.Info().URI) // the canonical URI finds the key
	must(t, err)
	if again.Info().Fingerprint != key.Info().Fingerprint || !strings.Contains(key.Info().URI, "serial="+trim(ti.SerialNumber)) {
		t.Errorf("canonical URI %s", key.Info().URI)
	}
}

func TestGeneratedKeyIsLockedDown(t *testing.T) {
	s := newStore(t, "locked")
	tok := open(t, s.config("locked"))
	key := generate(t, tok, "k", hsm.ECDSAP256)
	info := key.Info()
	for name, want := range map[string]string{
		"sensitive": "true", "extractable": "false", "always-sensitive": "true", "never-extractable": "true", "local": "true",
		"private": "true", "modifiable": "false", "copyable": "false", "decrypt": "false", "unwrap": "false", "derive": "false",
		"key-gen-mechanism": "0x1040",
	} {
		if info.Attributes[name] != want {
			t.Errorf("%s is %q, want %s", name, info.Attributes[name], want)
		}
	}
	if !info.Software || info.Token != "locked" || info.Label != "k" || len(info.ID) != 32 || !strings.Contains(info.Module, "sha256:") || info.TokenState["serial"] == "" {
		t.Errorf("info %+v", info)
	}
	c := intruder(t)
	rw := rwSession(t, c, "locked")
	h, err := findPrivate(c, rw, nil, "k")
	must(t, err)
	if _, err := c.GetAttributeValue(rw, h, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_VALUE, nil)}); err == nil {
		t.Error("the token gave the private value away")
	}
	pub, err := find(c, rw, 1, selector(pkcs11.CKO_PUBLIC_KEY, nil, "k"))
	must(t, err)
	for _, a := range []uint{pkcs11.CKA_ENCRYPT, pkcs11.CKA_WRAP} {
		v, err := c.GetAttributeValue(rw, pub[0], []*pkcs11.Attribute{pkcs11.NewAttribute(a, nil)})
		must(t, err)
		if v[0].Value[0] != 0 {
			t.Errorf("public key may do 0x%x", a)
		}
	}
}

func TestIDInUseIsRefused(t *testing.T) {
	s := newStore(t, "ids")
	tok := open(t, s.config("ids"))
	_, err := tok.Generate(t.Context(), "pkcs11:object=first;id=%07", hsm.ECDSAP256)
	must(t, err)
	_, err = tok.Generate(t.Context(), "pkcs11:object=second;id=%07", hsm.ECDSAP256)
	failsWith(t, err, hsm.ErrExists)
	_, err = tok.Generate(t.Context(), "pkcs11:id=%08", hsm.ECDSAP256)
	failsWith(t, err, hsm.ErrUnsupported)
	key, err := tok.Signer(t.Context(), "pkcs11:id=%07")
	must(t, err)
	if key.Info().Label != "first" {
		t.Errorf("found %q", key.Info().Label)
	}
	_, err = tok.Signer(t.Context(), "pkcs11:object=second;id=%07")
	failsWith(t, err, hsm.ErrNotFound)
}
