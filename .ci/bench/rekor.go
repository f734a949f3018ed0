package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

type object = map[string]any

// benchServers starts redoubt serve once and measures its services, each beside its peer.
func benchServers(ctx context.Context, dir string) ([]*row, error) {
	if !wanted("rekor", "issue", "timestamp") {
		return nil, nil
	}
	issuer, err := newIssuer()
	if err != nil {
		return nil, err
	}
	defer issuer.close()
	p, urls, err := startRedoubt(ctx, filepath.Join(dir, "redoubt"), issuer)
	if err != nil {
		return nil, fmt.Errorf("starting redoubt serve: %w", err)
	}
	defer p.stop()
	var rows []*row
	for _, bench := range []struct {
		name string
		run  func() (*row, error)
	}{
		{"rekor", func() (*row, error) { return benchRekor(ctx, dir, p, urls["rekor"]) }},
		{"issue", func() (*row, error) { return benchIssue(ctx, dir, p, urls["fulcio"], issuer) }},
		{"timestamp", func() (*row, error) { return benchTimestamp(p, urls["tsa"]) }},
	} {
		if !wanted(bench.name) {
			continue
		}
		r, err := bench.run()
		if err != nil {
			return rows, err
		}
		rows = append(rows, r)
	}
	return rows, nil
}

// startRedoubt makes a state directory with software keys and serves it, trusting the issuer of the measurement too. It runs
// with the GOGC of the service unit (installer/files/systemd/redoubt.service) unless GOGC is set already.
func startRedoubt(ctx context.Context, dir string, issuer *issuer) (*process, map[string]string, error) {
	redoubt, err := program("redoubt")
	if err != nil {
		return nil, nil, err
	}
	if out, err := exec.Command(redoubt, "init", "--dir", dir, "--domain", "bench.example.test", "--non-interactive").CombinedOutput(); err != nil {
		return nil, nil, fmt.Errorf("init: %w: %s", err, out)
	}
	f, err := os.OpenFile(filepath.Join(dir, "redoubt.yaml"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return nil, nil, err
	}
	fmt.Fprintf(f, "oidc-issuers:\n    %s:\n        client-id: sigstore\n        type: email\n        jwks: '%s'\n", issuer.url, issuer.jwks)
	if err := f.Close(); err != nil {
		return nil, nil, err
	}
	ready := filepath.Join(dir, "..", "ready.json")
	var env []string
	if os.Getenv("GOGC") == "" {
		env = append(env, "GOGC=400")
	}
	p, err := start(env, redoubt, "serve", "--dir", dir, "--ready-file", ready)
	if err != nil {
		return nil, nil, err
	}
	var all map[string]any
	err = p.await(ctx, func() error {
		b, err := os.ReadFile(ready)
		if err != nil {
			return err
		}
		return json.Unmarshal(b, &all)
	})
	if err != nil {
		p.stop()
		return nil, nil, err
	}
	urls := map[string]string{}
	for name, v := range all {
		urls[name], _ = v.(string)
	}
	return p, urls, nil
}

// benchRekor measures from a hashedrekord of an own P-256 key to the answer with the inclusion proof.
func benchRekor(ctx context.Context, dir string, p *process, url string) (*row, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	o := &operations{kind: "application/json", want: 201, holds: "inclusionProof", make: func() ([]byte, error) {
		digest := sha256.Sum256(fmt.Append(nil, serial.Add(1)))
		sig, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
		if err != nil {
			return nil, err
		}
		verifier := object{"publicKey": object{"rawBytes": b64(spki)}, "keyDetails": "PKIX_ECDSA_P256_SHA_256"}
		return json.Marshal(object{"hashedRekordRequestV002": object{"digest": b64(digest[:]), "signature": object{"content": b64(sig), "verifier": verifier}}})
	}}
	const path = "/api/v2/log/entries"
	r := &row{name: "Rekor v2 POST to proof", clients: 64, peer: "rekor-tiles v2.3.0 posix, 1024/20 ms, checkpoint 100 ms"}
	var theirs *side
	peer, peerURL, err := startRekorTiles(dir)
	if err == nil {
		defer peer.stop()
		err = peer.await(ctx, func() error { return o.post(peerURL + path) })
		theirs = peer.serving(o, peerURL+path)
	}
	if err != nil {
		r.peer, theirs = "rekor-tiles v2.3.0: "+err.Error(), nil
	}
	return r, turns(r, *rounds, *step, p.serving(o, url+path), theirs)
}

func startRekorTiles(dir string) (*process, string, error) {
	path, err := program("rekor-tiles-posix-v2.3.0")
	if err != nil {
		return nil, "", err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, "", err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, "", err
	}
	keyFile := filepath.Join(dir, "rekor-tiles.pem")
	if err := os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		return nil, "", err
	}
	port := freePort()
	p, err := start(nil, path, "serve", "--storage-dir", filepath.Join(dir, "rekor-tiles"), "--signer-filepath", keyFile, "--hostname", "bench.example.test",
		"--http-port", port, "--grpc-port", freePort(), "--http-metrics-port", freePort(), "--log-level", "error",
		"--batch-max-size", "1024", "--batch-max-age", "20ms", "--checkpoint-interval", "100ms")
	return p, "http://127.0.0.1:" + port, err
}

func b64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

// jose encodes the parts of a token.
func jose(b []byte) string { return strings.TrimRight(base64.URLEncoding.EncodeToString(b), "=") }
