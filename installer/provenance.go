package installer

import (
	"context"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cyberphone/json-canonicalization/go/src/webpki.org/jsoncanonicalizer"
	slsa "github.com/in-toto/attestation/go/predicates/provenance/v1"
	intoto "github.com/in-toto/attestation/go/v1"
	"golang.org/x/mod/sumdb/dirhash"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"
)

// addProvenance adds an in-toto statement with SLSA provenance, version 1: what was built, from which source, modules and tools. It names no
// machine and no time, so that whoever builds the same makes the same.
func (c Config) addProvenance(ctx context.Context, binaries []binary, members map[string]member) error {
	statement := &intoto.Statement{Type: intoto.StatementTypeUri, PredicateType: "https://slsa.dev/provenance/v1"}
	for _, name := range slices.Sorted(maps.Keys(members)) {
		if folder, _, _ := strings.Cut(name, "/"); !slices.Contains([]string{"bin", "packages", "images", "chart", "sbom"}, folder) {
			continue
		}
		digest, err := digestOf(members[name])
		if err != nil {
			return err
		}
		statement.Subject = append(statement.Subject, &intoto.ResourceDescriptor{Name: name, Digest: map[string]string{"sha256": hex.EncodeToString(digest)}})
	}
	source, err := sourceHash(c.Source)
	if err != nil {
		return fmt.Errorf("reading the source: %w", err)
	}
	materials, err := c.materials(ctx, binaries)
	if err != nil {
		return err
	}
	platforms := []any{}
	for _, p := range c.Platforms {
		platforms = append(platforms, p)
	}
	parameters, err := structpb.NewStruct(map[string]any{"version": c.Version, "platforms": platforms, "created": c.Time.Unix()})
	if err != nil {
		return err
	}
	predicate := &slsa.Provenance{
		BuildDefinition: &slsa.BuildDefinition{
			BuildType: "https://redoubt.internal/bundle/v1", ExternalParameters: parameters,
			ResolvedDependencies: append([]*intoto.ResourceDescriptor{{Name: "source", Digest: map[string]string{"dirHash": source}}}, materials...),
		},
		RunDetails: &slsa.RunDetails{Builder: &slsa.Builder{Id: "https://redoubt.internal/bundle-build"}},
	}
	data, err := protojson.Marshal(predicate)
	if err != nil {
		return err
	}
	statement.Predicate = &structpb.Struct{}
	if err := protojson.Unmarshal(data, statement.Predicate); err != nil {
		return err
	}
	if err := statement.Validate(); err != nil {
		return fmt.Errorf("writing the provenance: %w", err)
	}
	if data, err = protojson.Marshal(statement); err != nil {
		return err
	}
	// protojson varies its white space on purpose
	if data, err = jsoncanonicalizer.Transform(data); err != nil {
		return err
	}
	members["sbom/provenance.intoto.json"] = member{mode: 0o644, data: append(data, '\n')}
	return nil
}

// materials are the modules of all binaries, each once, and the compilers.
func (c Config) materials(ctx context.Context, binaries []binary) (out []*intoto.ResourceDescriptor, err error) {
	seen := map[string]string{}
	for _, b := range binaries {
		info, err := buildinfo.ReadFile(b.file)
		if err != nil {
			return nil, fmt.Errorf("reading what %s is linked from: %w", b.member(), err)
		}
		seen[moduleURL("std", strings.TrimPrefix(info.GoVersion, "go"))] = ""
		for _, d := range info.Deps {
			seen[moduleURL(d.Path, d.Version)] = d.Sum
		}
	}
	for _, uri := range slices.Sorted(maps.Keys(seen)) {
		d := &intoto.ResourceDescriptor{Uri: uri}
		if raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(seen[uri], "h1:")); err == nil && len(raw) == sha256.Size {
			d.Digest = map[string]string{"dirHash": hex.EncodeToString(raw)}
		}
		out = append(out, d)
	}
	for _, platform := range c.Platforms {
		program, _ := compilerFor(platform)
		text, err := exec.CommandContext(ctx, program, "-dumpfullversion", "-dumpmachine").Output()
		if err != nil {
			return nil, fmt.Errorf("asking %s for its version: %w", program, err)
		}
		version, machine, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
		out = append(out, &intoto.ResourceDescriptor{Name: "gcc for " + platform, Uri: "pkg:generic/gcc@" + version + "?target=" + machine})
	}
	return out, nil
}

// sourceHash is the sum of the checkout, as go.sum has those of modules, in hex. What .gitignore leaves out is left out.
func sourceHash(root string) (string, error) {
	var files []string
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, file)
		switch {
		case err != nil:
			return err
		case d.IsDir() && slices.Contains([]string{".git", "bin", "dist", ".cache", "vendor"}, name):
			return fs.SkipDir
		case d.Type().IsRegular() && name != ".git" && !strings.HasSuffix(name, ".test") && !strings.HasSuffix(name, ".prof"):
			files = append(files, filepath.ToSlash(name))
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	sum, err := dirhash.Hash1(files, func(name string) (io.ReadCloser, error) { return os.Open(filepath.Join(root, name)) })
	if err != nil {
		return "", err
	}
	raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(sum, "h1:"))
	return hex.EncodeToString(raw), err
}
