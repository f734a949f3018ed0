package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

const email = "dev@bench.example.test"

// issuer is an OIDC issuer on loopback that both authorities trust: ours by its pinned keys, the peer by discovery.
type issuer struct {
	url   string
	jwks  []byte
	token string
	close func() error
}

func newIssuer() (*issuer, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	i := &issuer{url: "http://" + l.Addr().String(), close: l.Close}
	e := binary.BigEndian.AppendUint32(nil, uint32(key.E))[1:]
	i.jwks, err = json.Marshal(object{"keys": []object{{"kty": "RSA", "use": "sig", "alg": "RS256", "kid": "1", "n": jose(key.N.Bytes()), "e": jose(e)}}})
	if err != nil {
		return nil, err
	}
	discovery, err := json.Marshal(object{"issuer": i.url, "authorization_endpoint": i.url + "/auth", "token_endpoint": i.url + "/token", "jwks_uri": i.url + "/keys",
		"response_types_supported": []string{"id_token"}, "subject_types_supported": []string{"public"}, "id_token_signing_alg_values_supported": []string{"RS256"}})
	if err != nil {
		return nil, err
	}
	header, _ := json.Marshal(object{"alg": "RS256", "kid": "1", "typ": "JWT"})
	now := time.Now().Unix()
	claims, _ := json.Marshal(object{"iss": i.url, "sub": email, "aud": "sigstore", "iat": now, "nbf": now, "exp": now + 3600, "email": email, "email_verified": true})
	digest := sha256.Sum256([]byte(jose(header) + "." + jose(claims)))
	sig, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, digest[:])
	if err != nil {
		return nil, err
	}
	i.token = jose(header) + "." + jose(claims) + "." + jose(sig)
	mux := http.NewServeMux()
	for path, doc := range map[string][]byte{"/.well-known/openid-configuration": discovery, "/keys": i.jwks} {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Write(doc)
		})
	}
	go http.Serve(l, mux)
	return i, nil
}

// benchIssue measures an RS256 email token and the proof of a fresh P-256 key to a certificate. Ours lints it, logs the
// precertificate, embeds the SCT and makes three durable records; the peer does none of these here.
func benchIssue(ctx context.Context, dir string, p *process, url string, issuer *issuer) (*row, error) {
	o := &operations{kind: "application/json", want: 200, holds: "BEGIN CERTIFICATE", make: func() ([]byte, error) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		spki, err := x509.MarshalPKIXPublicKey(key.Public())
		if err != nil {
			return nil, err
		}
		digest := sha256.Sum256([]byte(email))
		proof, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
		if err != nil {
			return nil, err
		}
		public := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}))
		return json.Marshal(object{"credentials": object{"oidcIdentityToken": issuer.token},
			"publicKeyRequest": object{"publicKey": object{"algorithm": "ECDSA", "content": public}, "proofOfPossession": b64(proof)}})
	}}
	const path = "/api/v2/signingCert"
	r := &row{name: "issuance (lint, CT, records)", clients: 64, peer: "fulcio v1.8.8 ephemeralca, no lint, no CT, no records"}
	var theirs *side
	peer, peerURL, err := startFulcio(dir, issuer)
	if err == nil {
		defer peer.stop()
		err = peer.await(ctx, func() error { return o.post(peerURL + path) })
		theirs = peer.serving(o, peerURL+path)
	}
	if err != nil {
		r.peer, theirs = "fulcio v1.8.8: "+err.Error(), nil
	}
	return r, turns(r, *rounds, *step, p.serving(o, url+path), theirs)
}

func startFulcio(dir string, issuer *issuer) (*process, string, error) {
	if out, err := outward(); err != nil || out {
		return nil, "", errors.New("not started: its metrics listener takes every interface, and no network namespace could be made")
	}
	path, err := program("fulcio-v1.8.8")
	if err != nil {
		return nil, "", err
	}
	config := filepath.Join(dir, "fulcio.yaml")
	text := fmt.Sprintf("oidc-issuers:\n  %s:\n    issuer-url: %s\n    client-id: sigstore\n    type: email\n", issuer.url, issuer.url)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, "", err
	}
	port := freePort()
	p, err := start(nil, path, "serve", "--ca", "ephemeralca", "--ct-log-url", "", "--config-path", config, "--log_type", "prod", "--host", "127.0.0.1", "--port", port,
		"--grpc-host", "127.0.0.1", "--grpc-port", freePort(), "--metrics-port", freePort(), "--legacy-unix-domain-socket", filepath.Join(dir, "fulcio.sock"))
	return p, "http://127.0.0.1:" + port, err
}

// outward reports whether this machine, as seen from here, can be reached at all from outside.
func outward() (bool, error) {
	all, err := net.Interfaces()
	for _, i := range all {
		if i.Flags&net.FlagLoopback == 0 && i.Flags&net.FlagUp != 0 {
			return true, err
		}
	}
	return false, err
}

// timestampRequest is TimeStampReq of RFC 3161, section 2.4.1.
type timestampRequest struct {
	Version int
	Imprint struct {
		Algorithm pkix.AlgorithmIdentifier
		Hash      []byte
	}
	Nonce   *big.Int
	CertReq bool
}

func benchTimestamp(p *process, url string) (*row, error) {
	o := &operations{kind: "application/timestamp-query", want: 201, make: func() ([]byte, error) {
		n := serial.Add(1)
		q := timestampRequest{Version: 1, Nonce: new(big.Int).SetUint64(n), CertReq: true}
		q.Imprint.Algorithm = pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}, Parameters: asn1.NullRawValue}
		digest := sha256.Sum256(fmt.Append(nil, n))
		q.Imprint.Hash = digest[:]
		return asn1.Marshal(q)
	}}
	r := &row{name: "timestamp", clients: 64, peer: "no peer measured"}
	return r, turns(r, *rounds, *step, p.serving(o, url), nil)
}
