package policy

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"redoubt.internal/appliance/verify"
	"redoubt.internal/ca/denied"
)

// UnmarshalText reads Go's notation, and days.
func (d *Duration) UnmarshalText(text []byte) error {
	if days, ok := strings.CutSuffix(string(text), "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		*d = Duration(n * uint64(24*time.Hour))
		return err
	}
	v, err := time.ParseDuration(string(text))
	if err == nil && v < 0 {
		err = fmt.Errorf("the time span %s is negative", v)
	}
	*d = Duration(v)
	return err
}

// MarshalText writes Go's notation.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// check holds the file to what needs no other file.
func (f *File) check() error {
	switch {
	case f.Version != Schema:
		return fmt.Errorf("version is %.100q, this program reads %s", f.Version, Schema)
	case len(f.Rules) == 0:
		return errors.New("rules: there are none, so nothing would ever be allowed")
	case max(len(f.Rules), len(f.Signers), len(f.Roots), len(f.Keys), len(f.Deny)) > maxRules:
		return fmt.Errorf("more than %d rules, signers, roots, keys or denials", maxRules)
	case len(f.Roots) == 0:
		return errors.New("roots: there are none, so nothing could ever verify")
	}
	return nil
}

// loadRoots reads the trusted roots; sum takes all bytes that decide.
func (p *Policy) loadRoots(dir string, c Config, sum io.Writer) error {
	var all []verify.Root
	for _, name := range slices.Sorted(maps.Keys(p.file.Roots)) {
		in := p.file.Roots[name]
		root := verify.Root{Name: name}
		if i := slices.IndexFunc(c.Roots, func(r verify.Root) bool { return r.Name == name }); i >= 0 {
			root = c.Roots[i]
		} else if err := readRoot(&root, dir, in.File); err != nil {
			return fmt.Errorf("roots.%s: %w", name, err)
		}
		v, err := verify.New(verify.Config{Roots: []verify.Root{root}, Upstream: c.Upstream, EveryReason: c.EveryReason, Now: p.now})
		if err != nil {
			return fmt.Errorf("roots.%s: %w", name, err)
		}
		fmt.Fprintf(sum, "root %s %d\n%s", name, len(root.JSON), root.JSON)
		list, err := readDenied(in.Denied, dir, sum)
		if err != nil {
			return fmt.Errorf("roots.%s.denied: %w", name, err)
		}
		p.roots[name] = trusted{in, root.JSON, root.AsOf, list, v}
		all = append(all, root)
	}
	var err error
	p.any, err = verify.New(verify.Config{Roots: all, Upstream: c.Upstream, EveryReason: c.EveryReason, Now: p.now})
	return err
}

func readRoot(root *verify.Root, dir, file string) (err error) {
	if file == "" {
		return errors.New("file is missing")
	}
	path := within(dir, file)
	if root.JSON, err = readFile(path, maxFileSize); err != nil {
		return fmt.Errorf("%w; `redoubt client setup --out DIR` writes a trusted_root.json", err)
	}
	st, err := os.Stat(path)
	if err == nil {
		root.AsOf = st.ModTime()
	}
	return err
}

// readDenied reads a list of denied identities, nil where none is named. How old it is counts when something is decided.
func readDenied(in *DeniedList, dir string, sum io.Writer) (*denied.List, error) {
	if in == nil {
		return nil, nil
	}
	if in.File == "" {
		return nil, errors.New("file is missing")
	}
	data, err := readFile(within(dir, in.File), denied.MaxBytes)
	if err != nil {
		return nil, fmt.Errorf("%w; `redoubt client setup --out DIR` writes a %s", err, denied.FileName)
	}
	fmt.Fprintf(sum, "denied %d\n%s", len(data), data)
	return denied.Parse(data)
}

// DeniedVersions are the versions of the lists of denied identities, by root.
func (p *Policy) DeniedVersions() map[string]uint64 {
	all := map[string]uint64{}
	for name, r := range p.roots {
		if r.denied != nil {
			all[name] = r.denied.Version
		}
	}
	return all
}

func within(dir, file string) string {
	if filepath.IsAbs(file) {
		return file
	}
	return filepath.Join(dir, file)
}

func (p *Policy) loadKeys(dir string, sum io.Writer) error {
	for _, name := range slices.Sorted(maps.Keys(p.file.Keys)) {
		in := p.file.Keys[name]
		if _, ok := p.roots[in.Root]; !ok {
			return fmt.Errorf("keys.%s: there is no root %q%s", name, in.Root, nearest(in.Root, p.roots))
		}
		if in.File == "" {
			return fmt.Errorf("keys.%s: file is missing", name)
		}
		data, err := readFile(within(dir, in.File), maxFileSize)
		if err != nil {
			return fmt.Errorf("keys.%s: %w", name, err)
		}
		public, err := verify.ParseKey(data)
		if err != nil {
			return fmt.Errorf("keys.%s: %w", name, err)
		}
		public.NotBefore, public.NotAfter = in.NotBefore, in.NotAfter
		der, err := x509.MarshalPKIXPublicKey(public.Public)
		if err != nil {
			return fmt.Errorf("keys.%s: %w", name, err)
		}
		digest := sha256.Sum256(der)
		p.keys[name] = key{in, hex.EncodeToString(digest[:]), public}
		fmt.Fprintf(sum, "key %s %d\n%s", name, len(data), bytes.TrimSpace(data))
	}
	return nil
}
