package main

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"io"
	"time"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/ca/frontend"
)

func tlsCommand() *cli.Command {
	return &cli.Command{Name: "tls", Usage: "the certificate of the listeners", Subcommands: []*cli.Command{
		{Name: "show", Usage: "what the listeners show, until when, and the root that clients need", Flags: append(cmdline.StateFlags(), cmdline.OutputFlag()), Action: func(c *cli.Context) error {
			return tlsAction(c, tlsShow)
		}},
		{Name: "renew", Usage: "make a new certificate now; connections go on, the next ones see it", Flags: append(cmdline.StateFlags(), cmdline.OutputFlag()), Action: func(c *cli.Context) error {
			return tlsAction(c, tlsRenew)
		}},
	}}
}

func tlsAction(c *cli.Context, v verb[struct{}, tlsState]) error {
	state, err := v.call(c, struct{}{})
	if err != nil {
		return err
	}
	return cmdline.PrintResult(c, state, state.print)
}

// tlsState is the JSON of `redoubt tls show` and `redoubt tls renew`.
type tlsState struct {
	// Source is issued (made here), site (the site's own) or none (no TLS, or a proxy's).
	Source string `json:"source"`
	// Names are the DNS names and addresses that the certificate is for; of one that the next start makes, those it will be for.
	Names []string `json:"names"`
	// NotBefore and NotAfter bound it; left out where none is shown now.
	NotBefore time.Time `json:"notBefore,omitzero"`
	NotAfter  time.Time `json:"notAfter,omitzero"`
	// RenewAt is when a new one is made.
	RenewAt time.Time `json:"renewAt,omitzero"`
	// Fingerprint is the SHA-256 of the certificate, lower-case hex.
	Fingerprint string `json:"fingerprint,omitempty"`
	// Root is the PEM file that clients need, RootFingerprint the SHA-256 of its first certificate, RootNotAfter its end.
	Root            string    `json:"root,omitempty"`
	RootFingerprint string    `json:"rootFingerprint,omitempty"`
	RootNotAfter    time.Time `json:"rootNotAfter,omitzero"`
	// Error is why the last renewal failed.
	Error string `json:"error,omitempty"`
}

var tlsShow = verb[struct{}, tlsState]{"tls.show", func(_ context.Context, in *instance, _ string, _ struct{}) (tlsState, error) {
	return in.tlsState()
}}

var tlsRenew = verb[struct{}, tlsState]{"tls.renew", func(ctx context.Context, in *instance, actor string, _ struct{}) (tlsState, error) {
	switch {
	case in.cfg.TLS.Cert != "":
		return tlsState{}, cmdline.Hinted(errSiteCert, "put a new one into the file tls.cert names, then SIGHUP")
	case !in.cfg.issued():
		return tlsState{}, cmdline.Hinted(errNoTLS, "set tls.cert and tls.key to a certificate of your site")
	case in.front == nil:
		return tlsState{}, cmdline.Hinted(errNoFrontEnd, "`redoubt serve`")
	}
	if err := in.front.renew(ctx, in, actor); err != nil {
		return tlsState{}, fmt.Errorf("renewing the certificate of the listeners; the old one stays: %w", err)
	}
	return in.tlsState()
}}

func (in *instance) tlsState() (s tlsState, err error) {
	s.Source = "none"
	switch {
	case in.cfg.TLS.Cert != "":
		s.Source = "site"
	case in.cfg.issued():
		s.Source, s.Names = "issued", in.cfg.frontNames(in.parts).Strings()
	}
	if ca := in.cfg.TLS.CA; ca != "" {
		chain, err := readChain(in.dir.resolve(ca))
		if err != nil {
			return s, err
		}
		s.Root, s.RootFingerprint, s.RootNotAfter = in.dir.resolve(ca), certificateSum(chain[0]), chain[0].NotAfter
	}
	if !in.cfg.encrypts() {
		return s, nil
	}
	leaf, err := in.tlsLeaf()
	if err != nil {
		s.Error = err.Error()
	}
	if leaf != nil {
		s.Names = frontend.Names{DNS: leaf.DNSNames, IP: leaf.IPAddresses}.Strings()
		s.NotBefore, s.NotAfter, s.Fingerprint = leaf.NotBefore, leaf.NotAfter, certificateSum(leaf)
		if s.Source == "issued" {
			s.RenewAt = frontend.RenewAt(leaf)
		}
	}
	if in.front != nil {
		if failed := in.front.failed.Load(); failed != nil && *failed != nil {
			s.Error = (*failed).Error()
		}
	}
	return s, nil
}

// certificateSum is the SHA-256 of a certificate, lower-case hex.
func certificateSum(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

func (s tlsState) print(w io.Writer) {
	sources := map[string]string{"issued": "made here", "site": "the site's own", "none": "none: plain HTTP, or a proxy stands in front"}
	fmt.Fprintf(w, "certificate   %s\n", sources[s.Source])
	for _, n := range s.Names {
		fmt.Fprintf(w, "name          %s\n", n)
	}
	if !s.NotAfter.IsZero() {
		fmt.Fprintf(w, "valid         %s to %s\nSHA-256       %s\n", s.NotBefore.UTC().Format(time.DateTime), s.NotAfter.UTC().Format(time.DateTime), s.Fingerprint)
	}
	if !s.RenewAt.IsZero() {
		fmt.Fprintf(w, "renewed       on %s by itself\n", s.RenewAt.UTC().Format(time.DateTime))
	}
	if s.Root != "" {
		fmt.Fprintf(w, "clients need  %s\nits SHA-256   %s, until %s\n", s.Root, s.RootFingerprint, s.RootNotAfter.UTC().Format(time.DateOnly))
	}
	if s.Error != "" {
		fmt.Fprintf(w, "FAILED        %s\n", s.Error)
	}
}
