package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The rules docs/architecture.md states in prose, read from the source with go/parser. They hold for tests too, except where said.

const modulePath = "redoubt.internal"

// floors are the top-level folders from the lowest to the highest: a folder imports itself and those before it.
var floors = []string{"hsm", "log", "ca", "mirror", "installer", "appliance"}

// tokenKinds are the packages that hold keys. Only appliance/keys.go chooses between them; tests may use a real one.
var tokenKinds = []string{"hsm/soft", "hsm/pkcs11", "hsm/tpm", "hsm/vault", "hsm/plugin"}

// bannedFolders name nothing: a folder is a noun of the product.
var bannedFolders = []string{"util", "utils", "common", "helper", "helpers", "core", "misc", "shared"}

// oneRoom names the only folder, or the few, that may import a library. The entry for cfssl ends in "/": any one folder below ca, but only one.
var oneRoom = []struct{ library, folder string }{
	{"filippo.io/nistec", "hsm"},
	{"go.etcd.io/bbolt", "log/store/bolt"},
	{"github.com/miekg/pkcs11", "hsm/pkcs11"},
	{"github.com/google/go-tpm", "hsm/tpm"},
	{"github.com/hashicorp/vault/api", "hsm/vault"},
	{"github.com/cloudflare/cfssl", "ca/"},
	{"github.com/urfave/cli", "appliance appliance/cmdline appliance/verifying appliance/redoubt"},
	{"rsc.io/qr", "appliance"},
	{"github.com/klauspost/reedsolomon", "mirror/diode"},
	{"filippo.io/age", "installer/backup"},
	{"github.com/CycloneDX/cyclonedx-go", "installer"},
	{"github.com/google/cel-go", "appliance/policy"},
	{"github.com/google/go-containerregistry/pkg/v1", "mirror/images"},
	{"github.com/google/go-containerregistry/pkg/name", "mirror/images"},
	{"github.com/google/go-containerregistry/pkg/authn", "mirror/images"},
	{"github.com/docker/cli", "mirror/images"},
}

// interfaces are all that the product declares. A new one needs two real implementations and an ADR.
var interfaces = []string{"hsm.Token", "log/store.DB", "log/store.Tx", "log.HighWater", "mirror.Source"}

func TestFloors(t *testing.T) {
	for _, fault := range checkFloors(t, "..") {
		t.Error(fault)
	}
}

// A sourceFile is one parsed Go file: dir and name are slash-separated and relative to the repository root.
type sourceFile struct {
	dir, name string
	ast       *ast.File
}

func (f sourceFile) isTest() bool { return strings.HasSuffix(f.name, "_test.go") }

// checkFloors reads every Go file under root and returns one sentence for each broken rule.
func checkFloors(t *testing.T, root string) []string {
	t.Helper()
	var faults []string
	cfsslDirs := map[string]bool{}
	for _, file := range parseTree(t, root) {
		where := path.Join(file.dir, file.name)
		for _, problem := range slices.Concat(checkFolder(file), checkDeclarations(file)) {
			faults = append(faults, where+": "+problem)
		}
		for _, spec := range file.ast.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatalf("%s: reading import %s: %v", where, spec.Path.Value, err)
			}
			for _, problem := range checkImport(file, spec, imported) {
				faults = append(faults, where+": "+problem)
			}
			if within(imported, "github.com/cloudflare/cfssl") {
				cfsslDirs[file.dir] = true
			}
		}
	}
	if len(cfsslDirs) > 1 {
		faults = append(faults, fmt.Sprintf("cfssl is imported in %d folders; one holds it", len(cfsslDirs)))
	}
	return faults
}

// checkFolder: the top level is fixed, and no folder is named after nothing.
func checkFolder(file sourceFile) (problems []string) {
	if floor(file.dir) < 0 {
		problems = append(problems, "stands outside the floors "+strings.Join(floors, " < "))
	}
	for _, element := range strings.Split(file.dir, "/") {
		if slices.Contains(bannedFolders, element) {
			problems = append(problems, fmt.Sprintf("a folder called %q names no room", element))
		}
	}
	return problems
}

// checkImport: down or level only; token kinds in appliance/keys.go only; no standard log; one room for each guarded library.
func checkImport(file sourceFile, spec *ast.ImportSpec, imported string) (problems []string) {
	if imported == "log" {
		problems = append(problems, "imports the standard log; pass a *slog.Logger")
	}
	if target, inside := strings.CutPrefix(imported, modulePath+"/"); inside {
		if floor(target) > floor(file.dir) {
			problems = append(problems, fmt.Sprintf("imports %s, a higher floor", imported))
		}
		if spec.Name != nil && spec.Name.Name == "_" {
			problems = append(problems, fmt.Sprintf("imports %s for its side effects; there are no registries", imported))
		}
		for _, kind := range tokenKinds {
			if within(target, kind) && !within(file.dir, kind) && !file.isTest() && !slices.Contains([]string{"appliance/keys.go", "appliance/keys_tpm.go", "appliance/keys_servers.go"}, path.Join(file.dir, file.name)) {
				problems = append(problems, fmt.Sprintf("names the token kind %s; only appliance/keys.go and keys_*.go do, others take crypto.Signer", kind))
			}
		}
	}
	for _, rule := range oneRoom {
		if !within(imported, rule.library) {
			continue
		}
		if below, ok := strings.CutSuffix(rule.folder, "/"); ok && within(file.dir, below) || slices.Contains(strings.Fields(rule.folder), file.dir) {
			continue
		}
		problems = append(problems, fmt.Sprintf("imports %s, which belongs to %s alone", imported, rule.folder))
	}
	return problems
}

// checkDeclarations: no init, no registries, no interface beyond the known ones.
func checkDeclarations(file sourceFile) (problems []string) {
	for _, decl := range file.ast.Decls {
		if types, ok := decl.(*ast.GenDecl); ok && !file.isTest() {
			for _, spec := range types.Specs {
				declared, ok := spec.(*ast.TypeSpec)
				if !ok {
					continue
				}
				if _, ok := declared.Type.(*ast.InterfaceType); ok && !slices.Contains(interfaces, file.dir+"."+declared.Name.Name) {
					problems = append(problems, fmt.Sprintf("declares the interface %s; the product has %s", declared.Name.Name, strings.Join(interfaces, ", ")))
				}
			}
		}
		function, ok := decl.(*ast.FuncDecl)
		if !ok || function.Recv != nil {
			continue
		}
		switch {
		case function.Name.Name == "init":
			problems = append(problems, "has an init(); make the order visible in main")
		case strings.HasPrefix(function.Name.Name, "Register") && !file.isTest():
			problems = append(problems, fmt.Sprintf("declares %s; there are no registries", function.Name.Name))
		}
	}
	return problems
}

// parseTree parses the product's Go files: folders whose name begins with a dot or an underscore, vendor and testdata are not part of it.
func parseTree(t *testing.T, root string) []sourceFile {
	t.Helper()
	var files []sourceFile
	set := token.NewFileSet()
	err := filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		base := entry.Name()
		if entry.IsDir() {
			if name != root && (strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") || base == "testdata" || base == "vendor") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(base, ".go") {
			return nil
		}
		parsed, err := parser.ParseFile(set, name, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		dir, err := filepath.Rel(root, filepath.Dir(name))
		if err != nil {
			return err
		}
		files = append(files, sourceFile{dir: filepath.ToSlash(dir), name: base, ast: parsed})
		return nil
	})
	if err != nil {
		t.Fatalf("reading the source: %v", err)
	}
	if len(files) == 0 {
		t.Fatalf("no Go file found under %s", root)
	}
	return files
}

// floor returns the height of a slash-separated path relative to the repository root, -1 outside the floors.
func floor(dir string) int {
	top, _, _ := strings.Cut(dir, "/")
	return slices.Index(floors, top)
}

// within reports whether the import path or folder name is parent itself or below it; a major version suffix counts as below.
func within(name, parent string) bool { return name == parent || strings.HasPrefix(name, parent+"/") }

// TestFloorsReportsFaults plants one fault at a time in a tree that is otherwise sound: a rule that reports nothing is no rule.
func TestFloorsReportsFaults(t *testing.T) {
	sound := map[string]string{
		"hsm/hsm.go":                 "package hsm\nimport _ \"embed\"\ntype Token interface{}\n",
		"hsm/soft/soft.go":           "package soft\nimport \"redoubt.internal/hsm\"\nvar _ hsm.Key\n",
		"log/store/bolt/bolt.go":     "package bolt\nimport \"go.etcd.io/bbolt\"\nvar _ bbolt.DB\n",
		"ca/ceremony/ceremony.go":    "package ceremony\nimport \"github.com/cloudflare/cfssl/csr\"\nimport \"redoubt.internal/log\"\n",
		"ca/ca_test.go":              "package ca\nimport \"redoubt.internal/hsm/soft\"\n",
		"appliance/keys.go":          "package main\nimport \"redoubt.internal/hsm/soft\"\n",
		"appliance/main.go":          "package main\nimport \"github.com/urfave/cli/v2\"\nimport \"log/slog\"\n",
		"appliance/testdata/init.go": "package ignored\nfunc init() {}\n",
		".ci/tally/main.go":          "package main\nimport \"log\"\n",
	}
	tests := []struct{ name, file, source, want string }{
		{"sound", "log/log.go", "package log\nimport \"redoubt.internal/hsm\"\nimport \"redoubt.internal/log/store/bolt\"\n", ""},
		{"higher floor", "log/log.go", "package log\nimport \"redoubt.internal/ca\"\n", "log/log.go: imports redoubt.internal/ca, a higher floor"},
		{"higher floor in a test", "hsm/x_test.go", "package hsm\nimport \"redoubt.internal/mirror/parcel\"\n", "hsm/x_test.go: imports redoubt.internal/mirror/parcel, a higher floor"},
		{"token kind", "ca/ca.go", "package ca\nimport \"redoubt.internal/hsm/soft\"\n", "ca/ca.go: names the token kind hsm/soft"},
		{"token kind in main", "appliance/serve.go", "package main\nimport p \"redoubt.internal/hsm/pkcs11\"\n", "appliance/serve.go: names the token kind hsm/pkcs11"},
		{"init", "mirror/mirror.go", "package mirror\nfunc init() {}\n", "mirror/mirror.go: has an init()"},
		{"registry", "ca/kinds.go", "package ca\nfunc RegisterKind(name string) {}\n", "ca/kinds.go: declares RegisterKind"},
		{"side effects", "ca/kinds.go", "package ca\nimport _ \"redoubt.internal/log/rekor\"\n", "ca/kinds.go: imports redoubt.internal/log/rekor for its side effects"},
		{"folder", "log/util/x.go", "package util\n", "log/util/x.go: a folder called \"util\""},
		{"outside", "pkg/x.go", "package pkg\n", "pkg/x.go: stands outside the floors"},
		{"standard log", "hsm/x.go", "package hsm\nimport \"log\"\n", "hsm/x.go: imports the standard log"},
		{"bbolt", "mirror/x.go", "package mirror\nimport \"go.etcd.io/bbolt\"\n", "mirror/x.go: imports go.etcd.io/bbolt, which belongs to log/store/bolt"},
		{"command line", "appliance/verify/x.go", "package verify\nimport \"github.com/urfave/cli/v2\"\n", "appliance/verify/x.go: imports github.com/urfave/cli/v2, which belongs to appliance"},
		{"interface", "ca/x.go", "package ca\ntype Clock interface{ Now() int }\n", "ca/x.go: declares the interface Clock"},
		{"cfssl twice", "ca/x.go", "package ca\nimport \"github.com/cloudflare/cfssl/csr\"\n", "cfssl is imported in 2 folders"},
		{"cfssl above", "appliance/x.go", "package main\nimport \"github.com/cloudflare/cfssl/csr\"\n", "appliance/x.go: imports github.com/cloudflare/cfssl/csr, which belongs to ca/"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			root := t.TempDir()
			for name, source := range sound {
				plant(t, root, name, source)
			}
			plant(t, root, test.file, test.source)
			faults := checkFloors(t, root)
			if test.want == "" {
				if len(faults) > 0 {
					t.Errorf("a sound tree is reported: %q", faults)
				}
				return
			}
			if !slices.ContainsFunc(faults, func(fault string) bool { return strings.HasPrefix(fault, test.want) }) {
				t.Errorf("the planted fault is not reported:\n got %q\nwant %q", faults, test.want)
			}
		})
	}
}

func plant(t *testing.T, root, name, source string) {
	t.Helper()
	file := filepath.Join(root, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(source), 0o644); err != nil {
		t.Fatal(err)
	}
}
