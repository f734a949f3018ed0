package verifying

import (
	"crypto/sha256"
	"fmt"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/verify"
	"redoubt.internal/log/strictyaml"
	"redoubt.internal/mirror/freshness"
)

// Accept is the file of `redoubt verify --accept`: who is accepted under which trusted root. Several roots may be given to one verification; each
// is tried alone, with its own identities, so that one deployment cannot speak for the people of another.
type Accept struct {
	Accept []AcceptRule `yaml:"accept"`
}

// AcceptRule accepts one signer, or those that regular expressions match, under one root.
type AcceptRule struct {
	// Root is the name of a mirrored TUF repository (--mirror-root), or the file of a trusted root as --trusted-root names it.
	Root string `yaml:"root"`
	// Identity is an accepted e-mail or URI, IdentityRegexp matches accepted ones: anchor it with ^ and $.
	Identity       string `yaml:"identity,omitempty"`
	IdentityRegexp string `yaml:"identity-regexp,omitempty"`
	// Issuer is the accepted issuer, IssuerRegexp matches accepted ones; a certificate may name none.
	Issuer       string `yaml:"issuer,omitempty"`
	IssuerRegexp string `yaml:"issuer-regexp,omitempty"`
	// WithoutLog accepts what stands in no log, as GitHub's attestations of private repositories and releases. Refused where the root names a log.
	WithoutLog bool `yaml:"without-log,omitempty"`
}

// acceptedUnder reads --accept; nothing when it is not given.
func acceptedUnder(c *cli.Context) (out []verify.Identity, err error) {
	path := c.String("accept")
	if path == "" {
		return nil, nil
	}
	data, err := ReadBounded("accept", path)
	if err != nil {
		return nil, err
	}
	return parseAccept(path, data)
}

func parseAccept(path string, data []byte) (out []verify.Identity, err error) {
	file, err := strictyaml.Decode[Accept](data)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", verify.ErrUsage, path, err)
	}
	for i, r := range file.Accept {
		if r.Root == "" {
			return nil, fmt.Errorf("%w: %s: accept[%d] names no root", verify.ErrUsage, path, i)
		}
		out = append(out, verify.Identity{
			Root: r.Root, SAN: r.Identity, SANRegexp: r.IdentityRegexp, Issuer: r.Issuer, IssuerRegexp: r.IssuerRegexp, WithoutLog: r.WithoutLog,
		})
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%w: %s accepts nobody", verify.ErrUsage, path)
	}
	return out, nil
}

// mirroredRoots are the trusted roots of mirrored repositories, from beside the mirror's signed state, which names the digest of each.
func mirroredRoots(names []string, known *freshness.State, dir string) (out []verify.Root, err error) {
	if len(names) > 0 && known == nil {
		return nil, fmt.Errorf("%w: --mirror-root needs --mirror-state", verify.ErrUsage)
	}
	for _, name := range names {
		var held *freshness.TUF
		for i := range known.TUF {
			if known.TUF[i].Name == name {
				held = &known.TUF[i]
			}
		}
		if held == nil || held.Root == "" {
			return nil, fmt.Errorf("%w: the mirror holds no trusted root of %q; `redoubt mirror status` lists what was carried", verify.ErrUntrusted, name)
		}
		file := filepath.Join(dir, "roots", name+".json")
		data, err := ReadBounded("mirrored root", file)
		if err != nil {
			return nil, err
		}
		if fmt.Sprintf("%x", sha256.Sum256(data)) != held.Root {
			return nil, fmt.Errorf("%w: %s is not the trusted root that the mirror's state names (SHA-256 %s)", verify.ErrUntrusted, file, held.Root)
		}
		out = append(out, verify.Root{Name: name, JSON: data, AsOf: held.Observed})
	}
	return out, nil
}
