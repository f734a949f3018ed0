package verifying

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/appliance/policy"
	"redoubt.internal/appliance/verify"
	"redoubt.internal/mirror/detached"
	"redoubt.internal/mirror/images"
)

// operandFlags are those that say what is verified and what vouches for it.
func operandFlags() []cli.Flag {
	return append(RegistryFlags(),
		&cli.StringFlag{Name: "bundle", Usage: "the Sigstore bundle, cosign's before 3.0, or the PEP 740 attestation of a Python distribution; may be several, one on each line", EnvVars: []string{"REDOUBT_BUNDLE"}},
		&cli.StringFlag{Name: "signature", Usage: "the signature alone, raw or in base64, or the DSSE envelope; in place of --bundle, or beside it where that lacks it", EnvVars: []string{"REDOUBT_SIGNATURE"}},
		&cli.StringFlag{Name: "certificate", Usage: "with --signature: the signer's certificate", EnvVars: []string{"REDOUBT_CERTIFICATE"}},
		&cli.StringFlag{Name: "rfc3161-timestamp", Usage: "with --signature or cosign's bundle: a timestamp over the signature, DER or as cosign writes it", EnvVars: []string{"REDOUBT_RFC3161_TIMESTAMP"}},
		&cli.StringFlag{Name: "log-entry", Usage: "with --signature: its log entry in JSON, as Rekor's API or rekor-cli get --format tle gives it", EnvVars: []string{"REDOUBT_LOG_ENTRY"}},
		&cli.StringFlag{Name: "policy", Usage: "decide by the rules in this file, in place of the --certificate flags, --key, --accept and --trusted-root", EnvVars: []string{"REDOUBT_POLICY"}},
		&cli.StringFlag{Name: "as", Usage: "with --policy: the name that its rules see, HOST/REPOSITORY or a file's (default what the operand says)", EnvVars: []string{"REDOUBT_AS"}},
		&cli.StringFlag{Name: "repository", Value: ".", Usage: "git: a folder in the repository", EnvVars: []string{"REDOUBT_REPOSITORY"}},
	)
}

// RegistryFlags are those that say how a registry is read.
func RegistryFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "also", Usage: "oci://: another host that the registry may send us to; may be repeated", EnvVars: []string{"REDOUBT_ALSO"}},
		&cli.BoolFlag{Name: "plain-http", Usage: "oci://: allow http; to loopback it is always allowed", EnvVars: []string{"REDOUBT_PLAIN_HTTP"}},
		&cli.StringFlag{Name: "ca-file", Usage: "oci://: roots, in PEM, that the registry is believed by (default the machine's)", EnvVars: []string{"REDOUBT_CA_FILE"}},
		&cli.StringFlag{Name: "docker-config", Usage: "oci://: folder with docker's config.json, whose credentials are used", EnvVars: []string{"REDOUBT_DOCKER_CONFIG"}},
	}
}

// sources are the operands that name images, by how they begin.
var sources = []string{"oci://", "oci-layout:", "docker-archive:"}

// blobParts are the files of a signature beside a file or a digest.
type blobParts struct{ Bundle, Signature, Certificate, Timestamp, Entry string }

// gatherOperand is what the operand of verify names, and what vouches for it.
func gatherOperand(c *cli.Context) (policy.Gathered, error) {
	operand, name := c.Args().First(), c.String("as")
	for _, scheme := range sources {
		if rest, ok := strings.CutPrefix(operand, scheme); ok {
			if isSaidAny(c, partFlags) {
				return policy.Gathered{}, fmt.Errorf("%w: --signature, --certificate, --log-entry and --rfc3161-timestamp are beside files and digests; what vouches for an image stands beside it", verify.ErrUsage)
			}
			return gatherImage(c, scheme, rest, name)
		}
	}
	if rev, ok := strings.CutPrefix(operand, "git:"); ok {
		if isSaid(c, "bundle") || isSaidAny(c, partFlags) {
			return policy.Gathered{}, fmt.Errorf("%w: a commit or tag bears its signature itself", verify.ErrUsage)
		}
		return gatherGit(c.Context, c.String("repository"), rev, name)
	}
	g, err := gatherBlob(operand, blobParts{c.String("bundle"), c.String("signature"), c.String("certificate"), c.String("rfc3161-timestamp"), c.String("log-entry")})
	if err != nil {
		return g, err
	}
	g.Artifact.Name = name
	switch {
	case g.Artifact.Open == nil && strings.Contains(name, "/"): // of an image that is somewhere else
		g.Artifact.Kind = policy.Image
	case g.Artifact.Open != nil && c.String("policy") != "":
		g.Artifact.Name = cmp.Or(name, filepath.Base(operand))
		g.Artifact.Digest, err = StreamDigest(g.Artifact.Open)
	}
	return g, err
}

// gatherBlob is a file or a digest, and what vouches for it.
func gatherBlob(operand string, p blobParts) (g policy.Gathered, err error) {
	if p == (blobParts{}) {
		return g, fmt.Errorf("%w: --bundle is missing: it names what vouches for %s", verify.ErrUsage, operand)
	}
	g.Artifact.Kind = policy.Blob
	digest := func() (string, error) { return operand, nil }
	if algorithm, hash, ok := strings.Cut(operand, ":"); ok && strings.HasPrefix(algorithm, "sha") && hash != "" {
		g.Artifact.Digest = operand
	} else {
		g.Artifact.Open = func() (io.ReadCloser, error) {
			f, err := os.Open(operand)
			if err != nil {
				return nil, fmt.Errorf("%w: %w", localFile{"artifact"}, err)
			}
			return f, nil
		}
		digest = func() (string, error) { return StreamDigest(g.Artifact.Open) }
	}
	g.Evidence, err = p.evidence(digest)
	return g, err
}

// evidence is what the files hold, over an artifact of that digest, which is asked for only where the parts lie apart.
func (p blobParts) evidence(digest func() (string, error)) ([]policy.Evidence, error) {
	var s detached.Signature
	if p.Bundle != "" {
		data, err := ReadBounded("bundle", p.Bundle)
		if err != nil {
			return nil, err
		}
		own, apart, err := detached.FromBundle(data)
		switch {
		case err != nil:
			return nil, fmt.Errorf("%w: %s: %w", verify.ErrMalformed, p.Bundle, err)
		case p.Signature+p.Certificate+p.Entry != "", !apart && p.Timestamp != "":
			return nil, fmt.Errorf("%w: %s is whole: leave out --signature, --certificate, --log-entry and --rfc3161-timestamp", verify.ErrUsage, p.Bundle)
		case !apart:
			return policy.SplitBundles(filepath.Base(p.Bundle), data), nil
		}
		s = own
	}
	if err := p.read(&s); err != nil {
		return nil, err
	}
	text, err := digest()
	if err != nil {
		return nil, err
	}
	name, sum, _ := strings.Cut(text, ":")
	raw, err := hex.DecodeString(sum)
	if err != nil || name != "sha256" || len(raw) != sha256.Size {
		return nil, fmt.Errorf("%w: a signature in parts is over a file or its sha256:HEX, not %.140q", verify.ErrUsage, text)
	}
	bundle, err := s.Bundle(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", verify.ErrMalformed, err)
	}
	return []policy.Evidence{{Source: filepath.Base(p.Bundle + p.Signature), Bundle: bundle}}, nil
}

// read takes the parts that stand in files of their own.
func (p blobParts) read(s *detached.Signature) error {
	for _, part := range []struct {
		role, path string
		take       func([]byte)
	}{
		{"signature", p.Signature, s.Set},
		{"certificate", p.Certificate, func(b []byte) { s.Certificate = b }},
		{"timestamp", p.Timestamp, func(b []byte) { s.Timestamp = b }},
		{"log entry", p.Entry, func(b []byte) { s.Entry = b }},
	} {
		if part.path == "" {
			continue
		}
		data, err := ReadBounded(part.role, part.path)
		if err != nil {
			return err
		}
		part.take(data)
	}
	return nil
}

// gatherImage opens where an image stands. Only oci:// opens a socket, to the registry that it names.
func gatherImage(c *cli.Context, scheme, rest, name string) (g policy.Gathered, err error) {
	var source *images.Source
	var refs []images.Reference
	path, digest, pinned := strings.Cut(rest, "@")
	switch scheme {
	case "oci://":
		return gatherRegistry(c, rest, name)
	case "oci-layout:":
		source, refs, err = images.OpenLayout(path)
	default:
		source, refs, err = images.OpenArchive(path)
	}
	if err != nil {
		return g, fmt.Errorf("%w: %w", localFile{"artifact"}, err)
	}
	defer source.Close()
	ref, err := pickImage(refs, digest, pinned)
	if err != nil {
		return g, err
	}
	if g, err = withBundle(c.Context, c.String("bundle"), source, ref, name); err != nil {
		return g, err
	}
	switch err := source.Intact(c.Context, g.Artifact.Digest); {
	case errors.Is(err, images.ErrAltered):
		return g, fmt.Errorf("%w: %w", verify.ErrSignature, err)
	case err != nil:
		return g, fmt.Errorf("%w: %w", localFile{"artifact"}, err)
	}
	return g, nil
}

// nextForCopy is what to do when nothing vouches for the image of a layout or an archive.
func nextForCopy(operand string, err error) string {
	if !strings.HasPrefix(operand, "oci-layout:") && !strings.HasPrefix(operand, "docker-archive:") || errors.Is(err, images.ErrAltered) {
		return ""
	}
	if !errors.Is(err, verify.ErrNoSignature) && !errors.Is(err, verify.ErrSignature) {
		return ""
	}
	return "most copies leave signatures behind, which --bundle adds; where the digest is not the registry's either, the copy was converted and has to be made anew: " + images.Whole
}

// pickImage is the image of a layout that is meant.
func pickImage(refs []images.Reference, digest string, pinned bool) (images.Reference, error) {
	if pinned {
		ref, err := images.ParseReference(digest)
		if err != nil {
			return ref, fmt.Errorf("%w: %w", verify.ErrUsage, err)
		}
		return ref, nil
	}
	if len(refs) != 1 {
		return images.Reference{}, fmt.Errorf("%w: it holds %d images; name one: %s", verify.ErrUsage, len(refs), "oci-layout:DIR@sha256:HEX")
	}
	return refs[0], nil
}

func gatherRegistry(c *cli.Context, rest, name string) (g policy.Gathered, err error) {
	if os.Getenv(offlineMark) != "" {
		return g, fmt.Errorf("%w: --prove-offline has no registry to ask; `cosign save` or `skopeo copy` writes a layout: oci-layout:DIR", verify.ErrUsage)
	}
	ref, err := images.ParseReference(rest)
	if err != nil {
		return g, fmt.Errorf("%w: %w", verify.ErrUsage, err)
	}
	source, err := OpenRegistry(c, ref.Host())
	if err != nil {
		return g, err
	}
	g, err = withBundle(c.Context, c.String("bundle"), source, ref, name)
	if err != nil {
		return g, cmdline.WithCode(3, err)
	}
	return g, nil
}

// OpenRegistry is one registry, as the flags say that it is read.
func OpenRegistry(c *cli.Context, host string) (source *images.Source, err error) {
	access := images.Access{Host: host, Also: c.StringSlice("also"), PlainHTTP: c.Bool("plain-http"), DockerConfig: c.String("docker-config")}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	if file := c.String("ca-file"); file != "" {
		if transport.TLSClientConfig.RootCAs, err = ReadRoots(file); err != nil {
			return nil, fmt.Errorf("%w: ca-file: %w", verify.ErrLocal, err)
		}
	}
	access.Transport = transport
	if source, err = images.OpenRegistry(access); err != nil {
		return nil, fmt.Errorf("%w: %w", verify.ErrUsage, err)
	}
	return source, nil
}

// withBundle gathers what stands beside the image, and adds a bundle that was given.
func withBundle(ctx context.Context, bundle string, source *images.Source, ref images.Reference, name string) (policy.Gathered, error) {
	g, err := policy.Gather(ctx, source, ref, name)
	if err != nil || bundle == "" {
		return g, err
	}
	more, err := policy.ReadBundles(bundle)
	if err != nil {
		return g, fmt.Errorf("%w: %w", localFile{"bundle"}, err)
	}
	g.Evidence = append(more, g.Evidence...)
	return g, nil
}

// StreamDigest is the digest of a file of any size.
func StreamDigest(open func() (io.ReadCloser, error)) (string, error) {
	f, err := open()
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", fmt.Errorf("%w: %w", localFile{"artifact"}, err)
	}
	return "sha256:" + hex.EncodeToString(sum.Sum(nil)), nil
}

// ReadRoots are the certificate authorities in a file, in PEM.
func ReadRoots(file string) (*x509.CertPool, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s holds no certificate", file)
	}
	return roots, nil
}
