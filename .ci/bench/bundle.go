package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	sgverify "github.com/sigstore/sigstore-go/pkg/verify"

	"redoubt.internal/appliance/verify"
	"redoubt.internal/appliance/verify/verifytest"
)

// signedBlob is a file, its bundle (Rekor v2, timestamp, certificate with an SCT) and the root it verifies under.
type signedBlob struct{ artifact, bundle, root []byte }

const (
	blobSigner = "dev@corp.internal"
	blobIssuer = "https://oidc.corp.internal"
)

func signBlob() (s signedBlob) {
	testing.Benchmark(func(b *testing.B) { // the deployment in memory is made for tests, and wants one
		d := verifytest.New(b, "corp.internal")
		p := d.SignMessage(2, "artifact")
		s = signedBlob{p.Artifact, p.Bundle(b), d.Root()}
	})
	return s
}

// benchBundle verifies one bundle as a whole process beside cosign, and in this process beside sigstore-go. The rates are verifications per CPU
// second, which a busy machine distorts less than the clock.
func benchBundle(ctx context.Context, dir string) ([]*row, error) {
	if !wanted("bundle") {
		return nil, nil
	}
	s := signBlob()
	if len(s.bundle) == 0 {
		return nil, fmt.Errorf("signing a blob in memory failed")
	}
	whole, err := benchVerifyProcess(ctx, dir, s)
	if err != nil {
		return whole, err
	}
	library, err := benchVerifyLibrary(ctx, s)
	return append(whole, library...), err
}

func benchVerifyProcess(ctx context.Context, dir string, s signedBlob) ([]*row, error) {
	at := func(name string) string { return filepath.Join(dir, name) }
	for name, content := range map[string][]byte{"blob": s.artifact, "blob.sigstore.json": s.bundle, "trusted_root.json": s.root} {
		if err := os.WriteFile(at(name), content, 0o600); err != nil {
			return nil, err
		}
	}
	args := []string{"--bundle", at("blob.sigstore.json"), "--trusted-root", at("trusted_root.json"), "--certificate-identity", blobSigner, "--certificate-oidc-issuer", blobIssuer, at("blob")}
	process := func(program, verb string) *side {
		var used time.Duration
		return &side{cpu: func() time.Duration { return used }, own: selfCPU, run: func() (result, error) {
			var cpu time.Duration
			n := 0
			for ; n == 0 || cpu < *step; n++ {
				cmd := exec.CommandContext(ctx, program, append([]string{verb}, args...)...)
				if said, err := cmd.CombinedOutput(); err != nil {
					return result{}, fmt.Errorf("%w: %.200s", err, said)
				}
				cpu += cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
			}
			used += cpu
			return result{rate: float64(n) / cpu.Seconds(), cpu: float64(cpu.Microseconds()) / float64(n)}, nil
		}}
	}
	ours, err := program("redoubt")
	if err != nil {
		return nil, err
	}
	r := &row{name: "verify a bundle, whole process, per CPU second", clients: 1, peer: "cosign v3.1.3 verify-blob"}
	var theirs *side
	if path, err := program("cosign-v3.1.3"); err != nil {
		r.peer = err.Error()
	} else {
		theirs = process(path, "verify-blob")
	}
	return []*row{r}, turns(r, *rounds, *step, process(ours, "verify"), theirs)
}

func benchVerifyLibrary(ctx context.Context, s signedBlob) ([]*row, error) {
	v, err := verify.New(verify.Config{Roots: []verify.Root{{Name: "root", JSON: s.root}}})
	if err != nil {
		return nil, err
	}
	tr, err := root.NewTrustedRootFromJSON(s.root)
	if err != nil {
		return nil, err
	}
	peer, err := sgverify.NewVerifier(tr, sgverify.WithSignedCertificateTimestamps(1), sgverify.WithTransparencyLog(1), sgverify.WithObserverTimestamps(1))
	if err != nil {
		return nil, err
	}
	signer, err := sgverify.NewShortCertificateIdentity(blobIssuer, "", blobSigner, "")
	if err != nil {
		return nil, err
	}
	timed := func(do func() error) *side {
		return &side{cpu: selfCPU, run: func() (result, error) {
			n, before := 0, selfCPU()
			for ; selfCPU()-before < *step; n++ {
				if err := do(); err != nil {
					return result{}, err
				}
			}
			cpu := selfCPU() - before
			return result{rate: float64(n) / cpu.Seconds(), cpu: float64(cpu.Microseconds()) / float64(n)}, nil
		}}
	}
	ours := timed(func() error {
		_, err := v.Verify(ctx, verify.Request{Bundle: s.bundle, Artifact: verify.Artifact{Reader: bytes.NewReader(s.artifact)},
			Policy: verify.Policy{Identities: []verify.Identity{{SAN: blobSigner, Issuer: blobIssuer}}}})
		return err
	})
	theirs := timed(func() error {
		b := &bundle.Bundle{}
		if err := b.UnmarshalJSON(s.bundle); err != nil {
			return err
		}
		digest := sha256.Sum256(s.artifact)
		_, err := peer.Verify(b, sgverify.NewPolicy(sgverify.WithArtifactDigest("sha256", digest[:]), sgverify.WithCertificateIdentity(signer)))
		return err
	})
	r := &row{name: "verify a bundle, in process, per CPU second", clients: 1, peer: "sigstore-go v1.3.0", share: true}
	return []*row{r}, turns(r, *rounds, *step, ours, theirs)
}
