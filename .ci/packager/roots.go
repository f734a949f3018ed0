package main

import (
	"encoding/pem"
	"io"

	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// roots writes the certificate authorities of the web, as Mozilla's list stood at the version in go.mod, for the images: the outside end reads public
// logs by https. Those with constraints that a plain list cannot say are left out.
func roots(out io.Writer) error {
	for root := range bundle.Roots() {
		if root.Constraint != nil {
			continue
		}
		if err := pem.Encode(out, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}); err != nil {
			return err
		}
	}
	return nil
}
