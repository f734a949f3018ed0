package rekor_test

import (
	"bytes"
	"crypto"
	"crypto/dsa"
	"crypto/ed25519"
	"crypto/fips140"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	sshpki "github.com/sigstore/rekor/pkg/pki/ssh"
	"golang.org/x/crypto/blake2b"
	"golang.org/x/crypto/ssh"
)

func rekordAs(format string, artifact, sig, key []byte) object {
	return object{"kind": "rekord", "apiVersion": "0.0.1", "spec": object{
		"data":      object{"content": b64(artifact)},
		"signature": object{"format": format, "content": b64(sig), "publicKey": object{"content": b64(key)}},
	}}
}

func pgpEntry(t *testing.T, e *openpgp.Entity, artifact string) object {
	t.Helper()
	var sig, key bytes.Buffer
	if err := openpgp.ArmoredDetachSign(&sig, e, strings.NewReader(artifact), nil); err != nil {
		t.Fatal(err)
	}
	w := must(armor.Encode(&key, openpgp.PublicKeyType, nil))
	if err := e.Serialize(w); err != nil {
		t.Fatal(err)
	}
	w.Close()
	return rekordAs("pgp", []byte(artifact), sig.Bytes(), key.Bytes())
}

// minisign signs as the minisign tool does: a prehashed signature, and a global one over it and the trusted comment.
func minisign(artifact string) (sig, key []byte) {
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	id := []byte{1, 2, 3, 4, 5, 6, 7, 8}
	hash := blake2b.Sum512([]byte(artifact))
	s := ed25519.Sign(priv, hash[:])
	comment := "timestamp:1"
	global := ed25519.Sign(priv, append(bytes.Clone(s), comment...))
	line := func(algorithm string, rest []byte) string {
		return b64(append(append([]byte(algorithm), id...), rest...))
	}
	sig = []byte("untrusted comment: x\n" + line("ED", s) + "\ntrusted comment: " + comment + "\n" + b64(global) + "\n")
	return sig, []byte("untrusted comment: x\n" + line("Ed", pub) + "\n")
}

// TestRekordFormats: rekord takes PGP, SSH and minisign signatures too, each found by its key.
func TestRekordFormats(t *testing.T) {
	r := newRig(t)
	accepted := func(name string, e object) {
		t.Helper()
		a := r.post("/api/v1/log/entries", encode(e))
		if a.code != 201 {
			t.Errorf("%s: %d %s", name, a.code, a.body)
			return
		}
		id, _ := r.one(a)
		sig := e["spec"].(object)["signature"].(object)
		q := object{"publicKey": object{"format": sig["format"], "content": sig["publicKey"].(object)["content"]}}
		if ids := r.search(q); len(ids) != 1 || ids[0] != id {
			t.Errorf("%s: search by key gives %v", name, ids)
		}
	}
	refused := func(name, why string, e object) {
		t.Helper()
		if a := r.post("/api/v1/log/entries", encode(e)); a.code != 400 || !strings.Contains(string(a.body), why) {
			t.Errorf("%s: %d %s; want 400 %q", name, a.code, a.body, why)
		}
	}
	if fips140.Enforced() {
		e := unbound(func() object {
			return pgpEntry(t, must(openpgp.NewEntity("dev", "", "dev@corp.example", &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA})), "a file")
		})
		refused("pgp", "FIPS 140-3", e)
		sig := e["spec"].(object)["signature"].(object)
		q := object{"publicKey": object{"format": "pgp", "content": sig["publicKey"].(object)["content"]}}
		if a := r.post("/api/v1/index/retrieve", encode(q)); a.code != 400 || !strings.Contains(string(a.body), "FIPS 140-3") {
			t.Errorf("search by a PGP key: %d %s", a.code, a.body)
		}
	} else {
		pgpFormats(t, r, accepted, refused)
	}
	sig, key := minisign("a file")
	accepted("minisign", rekordAs("minisign", []byte("a file"), sig, key))
	refused("minisign of another file", "", rekordAs("minisign", []byte("another"), sig, key))
	for name, weak := range map[string]bool{"ecdsa": false, "rsa": false, "weak rsa": true} {
		e := unbound(func() object {
			k := crypto.Signer(generate(t))
			switch name {
			case "rsa":
				k = must(rsa.GenerateKey(rand.Reader, 2048))
			case "weak rsa":
				k = must(rsa.GenerateKey(rand.Reader, 1024))
			}
			block := must(ssh.MarshalPrivateKey(k, ""))
			sig := must(sshpki.Sign(string(pem.EncodeToMemory(block)), strings.NewReader("a file")))
			return rekordAs("ssh", []byte("a file"), sig, ssh.MarshalAuthorizedKey(must(ssh.NewPublicKey(k.Public()))))
		})
		if weak {
			refused("ssh "+name, "weak key", e)
		} else {
			accepted("ssh "+name, e)
		}
	}
}

// pgpFormats are the OpenPGP keys rekord takes, and those it does not.
func pgpFormats(t *testing.T, r *rig, accepted func(string, object), refused func(name, why string, e object)) {
	rsaPGP := must(openpgp.NewEntity("dev", "", "dev@corp.example", &packet.Config{RSABits: 2048, Algorithm: packet.PubKeyAlgoRSA}))
	accepted("pgp RSA", pgpEntry(t, rsaPGP, "a file"))
	accepted("pgp EdDSA", pgpEntry(t, must(openpgp.NewEntity("dev", "", "other@corp.example", &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA})), "a file"))
	if ids := r.search(object{"email": "dev@corp.example"}); len(ids) != 1 {
		t.Errorf("search by the PGP user id: %v", ids)
	}
	t.Setenv("GODEBUG", weakRSA)
	refused("pgp RSA 1024", "weak key", pgpEntry(t, must(openpgp.NewEntity("dev", "", "x@corp.example", &packet.Config{RSABits: 1024, Algorithm: packet.PubKeyAlgoRSA})), "a file"))
	refused("pgp DSA", "DSA", pgpEntry(t, dsaEntity(t), "a file"))
}

// dsaEntity is an OpenPGP key of the kind GnuPG made by default until 2009.
func dsaEntity(t *testing.T) *openpgp.Entity {
	t.Helper()
	var k dsa.PrivateKey
	if err := dsa.GenerateParameters(&k.Parameters, rand.Reader, dsa.L2048N256); err != nil {
		t.Fatal(err)
	}
	if err := dsa.GenerateKey(&k, rand.Reader); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	e := &openpgp.Entity{
		PrimaryKey: packet.NewDSAPublicKey(now, &k.PublicKey), PrivateKey: packet.NewDSAPrivateKey(now, &k),
		Identities: map[string]*openpgp.Identity{},
	}
	id := e.PrimaryKey.KeyId
	primary := true
	uid := packet.NewUserId("dsa", "", "dsa@corp.example")
	e.Identities[uid.Id] = &openpgp.Identity{Name: uid.Id, UserId: uid, SelfSignature: &packet.Signature{
		Version: 4, SigType: packet.SigTypePositiveCert, PubKeyAlgo: packet.PubKeyAlgoDSA, Hash: crypto.SHA256, CreationTime: now, IssuerKeyId: &id,
		IsPrimaryId: &primary, FlagsValid: true, FlagSign: true, FlagCertify: true,
	}}
	s := e.Identities[uid.Id].SelfSignature
	if err := s.SignUserId(uid.Id, e.PrimaryKey, e.PrivateKey, nil); err != nil {
		t.Fatal(err)
	}
	e.Identities[uid.Id].Signatures = append(e.Identities[uid.Id].Signatures, s)
	return e
}
