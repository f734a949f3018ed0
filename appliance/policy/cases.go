package policy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"redoubt.internal/log/strictyaml"
	"redoubt.internal/mirror/images"
)

// Cases are what a policy must decide: the file NAME.test.yaml beside NAME.yaml.
type Cases struct {
	// Cases are judged one by one.
	Cases []Case `yaml:"cases"`
}

// Case is one artifact and what must become of it. Files stand relative to the policy.
type Case struct {
	// Name is shown.
	Name string `yaml:"name"`
	// Image is HOST/REPOSITORY, or Artifact the name of a file.
	Image string `yaml:"image,omitempty"`
	// Artifact is the name of a file.
	Artifact string `yaml:"artifact,omitempty"`
	// Digest is what was signed, or File holds it.
	Digest string `yaml:"digest,omitempty"`
	// File is what was signed.
	File string `yaml:"file,omitempty"`
	// Bundles are Sigstore bundles; one file may hold several, one on each line.
	Bundles []string `yaml:"bundles,omitempty"`
	// Layout is an OCI layout with the image and what vouches for it, in place of digest and bundles.
	Layout string `yaml:"layout,omitempty"`
	// Now is when it is judged.
	Now time.Time `yaml:"now,omitempty"`
	// Expect is allow or deny.
	Expect string `yaml:"expect"`
	// Rule is the rule that must decide.
	Rule string `yaml:"rule,omitempty"`
	// Reason is a text that one of the reasons must hold.
	Reason string `yaml:"reason,omitempty"`
}

// Tested is what became of a case.
type Tested struct {
	Name     string   `json:"name"`
	Passed   bool     `json:"passed"`
	Problem  string   `json:"problem,omitempty"` // why it did not pass
	Decision Decision `json:"decision"`
}

// CasesFile is where the cases of a policy stand.
func CasesFile(policy string) string {
	return strings.TrimSuffix(strings.TrimSuffix(policy, ".yaml"), ".yml") + ".test.yaml"
}

// Test judges the cases that stand beside a policy.
func Test(ctx context.Context, file string, c Config) ([]Tested, error) {
	path := CasesFile(file)
	data, err := readFile(path, strictyaml.MaxBytes)
	if err != nil {
		return nil, fmt.Errorf("%w: cases: %w", ErrFile, err)
	}
	cases, err := strictyaml.Decode[Cases](data)
	if err == nil && len(cases.Cases) == 0 {
		err = errors.New("there are none")
	}
	if err != nil {
		return nil, fmt.Errorf("%w: cases: %s: %w", ErrFile, path, err)
	}
	var out []Tested
	for i, t := range cases.Cases {
		if t.Expect != "allow" && t.Expect != "deny" {
			return nil, fmt.Errorf("%w: cases: %s: cases[%d]: expect %.40q; allow or deny is needed", ErrFile, path, i, t.Expect)
		}
		result, err := t.run(ctx, file, c)
		if err != nil {
			return nil, fmt.Errorf("%w: cases: %s: cases[%d]: %w", ErrFile, path, i, err)
		}
		out = append(out, result)
	}
	return out, nil
}

func (t Case) run(ctx context.Context, file string, c Config) (Tested, error) {
	if !t.Now.IsZero() {
		c.Now = func() time.Time { return t.Now }
	}
	p, err := Load(file, c)
	if err != nil {
		return Tested{}, err
	}
	a, evidence, err := t.gather(ctx, filepath.Dir(file))
	if err != nil {
		return Tested{}, err
	}
	out := Tested{Name: t.Name, Decision: p.Decide(ctx, a, evidence...)}
	switch d := out.Decision; {
	case d.Allow != (t.Expect == "allow"):
		out.Problem = fmt.Sprintf("expected %s: %s", t.Expect, d.explain())
	case t.Rule != "" && d.Rule != t.Rule:
		out.Problem = fmt.Sprintf("expected rule %q: %s", t.Rule, d.explain())
	case !strings.Contains(d.explain(), t.Reason):
		out.Problem = fmt.Sprintf("expected the reason %q: %s", t.Reason, d.explain())
	}
	out.Passed = out.Problem == ""
	return out, nil
}

// gather is the artifact and the evidence of a case.
func (t Case) gather(ctx context.Context, dir string) (a Artifact, evidence []Evidence, err error) {
	if (t.Image == "") == (t.Artifact == "") {
		return a, nil, errors.New("image or artifact is needed, and not both")
	}
	a = Artifact{Kind: Image, Name: t.Image, Digest: t.Digest}
	if t.Artifact != "" {
		a.Kind, a.Name = Blob, t.Artifact
	}
	if t.Layout != "" {
		source, refs, err := images.OpenLayout(within(dir, t.Layout))
		if err != nil {
			return a, nil, err
		}
		defer source.Close()
		if len(refs) != 1 {
			return a, nil, fmt.Errorf("the layout %s holds %d images, one is needed", t.Layout, len(refs))
		}
		g, err := Gather(ctx, source, refs[0], t.Image)
		return g.Artifact, g.Evidence, err
	}
	if t.File != "" {
		path := within(dir, t.File)
		if _, err := os.Stat(path); err != nil {
			return a, nil, err
		}
		a.Open = func() (io.ReadCloser, error) { return os.Open(path) }
	}
	if a.Digest == "" && a.Open == nil { // which rule decides, and that it wants something
		a.Digest = images.DigestOf(nil)
	}
	for _, name := range t.Bundles {
		more, err := ReadBundles(within(dir, name))
		if err != nil {
			return a, nil, err
		}
		evidence = append(evidence, more...)
	}
	return a, evidence, nil
}

// maxBundles is the longest file of bundles, in bytes.
const maxBundles = 64 << 20

// ReadBundles reads a file of one bundle, or of several, one on each line, as gh writes them.
func ReadBundles(path string) (all []Evidence, err error) {
	data, err := readFile(path, maxBundles)
	if err != nil {
		return nil, fmt.Errorf("reading the bundle: %w", err)
	}
	return SplitBundles(filepath.Base(path), data), nil
}
