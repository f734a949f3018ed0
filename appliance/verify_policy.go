package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/policy"
	"redoubt.internal/appliance/verify"
	"redoubt.internal/mirror"
	"redoubt.internal/mirror/images"
)

// policyFlags are those by which verify judges by a policy, and finds what vouches for images.
func policyFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "policy", Usage: "decide by the rules in this file, in place of the --certificate flags, --key, --accept and --trusted-root", EnvVars: []string{"REDOUBT_POLICY"}},
		&cli.StringFlag{Name: "as", Usage: "with --policy: the name that its rules see, HOST/REPOSITORY or a file's (default what the operand says)", EnvVars: []string{"REDOUBT_AS"}},
		&cli.StringSliceFlag{Name: "also", Usage: "oci://: another host that the registry may send us to; may be repeated", EnvVars: []string{"REDOUBT_ALSO"}},
		&cli.BoolFlag{Name: "plain-http", Usage: "oci://: allow http; to loopback it is always allowed", EnvVars: []string{"REDOUBT_PLAIN_HTTP"}},
		&cli.StringFlag{Name: "ca-file", Usage: "oci://: roots, in PEM, that the registry is believed by (default the machine's)", EnvVars: []string{"REDOUBT_CA_FILE"}},
		&cli.StringFlag{Name: "docker-config", Usage: "oci://: folder with docker's config.json, whose credentials are used", EnvVars: []string{"REDOUBT_DOCKER_CONFIG"}},
	}
}

// sources are the operands that name images, by how they begin.
var sources = []string{"oci://", "oci-layout:", "docker-archive:"}

// verifyByPolicy is `redoubt verify --policy`.
func verifyByPolicy(c *cli.Context, known *mirror.Freshness, knownIn string) error {
	for _, other := range []string{"key", "accept", "setup", "certificate-identity", "certificate-identity-regexp", "certificate-oidc-issuer", "certificate-oidc-issuer-regexp", "max-trust-age"} {
		if c.IsSet(other) {
			return unverified(c, fmt.Errorf("%w: --policy says who is accepted under which root; it excludes --%s", verify.ErrUsage, other))
		}
	}
	if c.IsSet("trusted-root") || c.IsSet("type") {
		return unverified(c, fmt.Errorf("%w: --policy names its roots and types itself; it excludes --trusted-root and --type", verify.ErrUsage))
	}
	mirrored, err := mirroredRoots(c.StringSlice("mirror-root"), known, knownIn)
	if err != nil {
		return unverified(c, err)
	}
	p, err := policy.Load(c.String("policy"), policy.Config{Roots: mirrored, Upstream: known, Now: clock})
	if err != nil {
		return policyFault(err)
	}
	g, err := gatherOperand(c)
	if err != nil {
		return unverified(c, err)
	}
	d := p.Decide(c.Context, g.Artifact, g.Evidence...)
	for _, left := range g.Left {
		d.Ignored = append(d.Ignored, "left out: "+left)
	}
	if dir := c.String("observe"); dir != "" {
		for _, r := range d.Results {
			leaveProofs(dir, r, c.App.ErrWriter)
		}
	}
	if err := printResult(c, d, func(w io.Writer) { printDecision(w, c, g.Artifact, d) }); err != nil {
		return err
	}
	if err := d.Err(); err != nil {
		return hinted(withCode(d.Code, fmt.Errorf("not verified: %w", err)), "`redoubt policy explain %s %s` says what is asked", c.String("policy"), g.Artifact.Name)
	}
	return nil
}

// printDecision says what was asked before it says what came of it.
func printDecision(w io.Writer, c *cli.Context, a policy.Artifact, d policy.Decision) {
	fmt.Fprintf(w, "artifact   %s %s %s\n", a.Kind, a.Name, a.Digest)
	fmt.Fprintf(w, "policy     %s (%s)\n", c.String("policy"), d.Version)
	fmt.Fprintf(w, "rule       %s\n", orDefault(d.Rule, "none"))
	verdict := "denied"
	if d.Allow {
		verdict = "verified: " + c.Args().First()
	}
	fmt.Fprintln(w, verdict)
	for _, r := range d.Reasons {
		fmt.Fprintf(w, "  %s\n", r)
	}
	for _, i := range d.Ignored {
		fmt.Fprintf(w, "  not counted: %s\n", i)
	}
	for _, r := range d.Results {
		for _, warning := range r.Warnings() {
			fmt.Fprintf(w, "  warning    %s\n", warning)
		}
	}
}

// gatherOperand is what the operand of verify names, and what vouches for it.
func gatherOperand(c *cli.Context) (policy.Gathered, error) {
	operand, name := c.Args().First(), c.String("as")
	for _, scheme := range sources {
		if rest, ok := strings.CutPrefix(operand, scheme); ok {
			return gatherImage(c, scheme, rest, name)
		}
	}
	if strings.HasPrefix(operand, "git:") {
		return policy.Gathered{}, fmt.Errorf("%w: this build verifies files, digests and images, not git:", verify.ErrUsage)
	}
	g := policy.Gathered{Artifact: policy.Artifact{Kind: policy.Blob, Name: name}}
	if algorithm, digest, ok := strings.Cut(operand, ":"); ok && strings.HasPrefix(algorithm, "sha") && digest != "" {
		g.Artifact.Digest = operand
		if strings.Contains(name, "/") { // of an image that is somewhere else
			g.Artifact.Kind = policy.Image
		}
	} else {
		digest, err := streamDigest(operand)
		if err != nil {
			return g, fmt.Errorf("%w: %w", localFile{"artifact"}, err)
		}
		g.Artifact.Digest, g.Artifact.Open = digest, func() (io.ReadCloser, error) { return os.Open(operand) }
		g.Artifact.Name = orDefault(name, filepath.Base(operand))
	}
	if c.String("bundle") == "" {
		return g, fmt.Errorf("%w: --bundle is missing: it names what vouches for %s", verify.ErrUsage, operand)
	}
	var err error
	if g.Evidence, err = policy.ReadBundles(c.String("bundle")); err != nil {
		return g, fmt.Errorf("%w: %w", localFile{"bundle"}, err)
	}
	return g, nil
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
	return withBundle(c.Context, c.String("bundle"), source, ref, name)
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
	access := images.Access{Host: ref.Host(), Also: c.StringSlice("also"), PlainHTTP: c.Bool("plain-http"), DockerConfig: c.String("docker-config")}
	var over mirror.Access
	if file := c.String("ca-file"); file != "" {
		if over.Roots, err = readRoots(file); err != nil {
			return g, fmt.Errorf("%w: ca-file: %w", verify.ErrLocal, err)
		}
	}
	network, err := mirror.NewNetwork(over)
	if err != nil {
		return g, err
	}
	access.Transport = network.Transport()
	source, err := images.OpenRegistry(access)
	if err != nil {
		return g, fmt.Errorf("%w: %w", verify.ErrUsage, err)
	}
	g, err = withBundle(c.Context, c.String("bundle"), source, ref, name)
	if err != nil {
		return g, withCode(3, err)
	}
	return g, nil
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

// streamDigest is the digest of a file of any size.
func streamDigest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", err
	}
	return "sha256:" + hex.EncodeToString(sum.Sum(nil)), nil
}
