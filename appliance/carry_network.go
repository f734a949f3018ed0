package main

import (
	"crypto/x509"
	"fmt"
	"os"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/mirror"
)

// access is how the outside reaches logs, but for the roots, which are a file.
func (m Mirror) access() mirror.Access {
	return mirror.Access{Proxy: m.Proxy, Rate: m.Rate, AtOnce: m.AtOnce, Contact: m.Contact}
}

// mirrorNetwork is how the outside reaches logs on the network.
func (in *instance) mirrorNetwork() (*mirror.Network, error) {
	m, access := in.cfg.Mirror, in.cfg.Mirror.access()
	if m.CAFile != "" {
		file := in.dir.resolve(m.CAFile)
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("mirror.ca-file: %w", err)
		}
		access.Roots = x509.NewCertPool()
		if !access.Roots.AppendCertsFromPEM(text) {
			return nil, cmdline.Hinted(fmt.Errorf("mirror.ca-file: %s holds no certificate", file), "it holds the roots of the logs' servers in PEM")
		}
	}
	return mirror.NewNetwork(access)
}
