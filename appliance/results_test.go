package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

var update = flag.Bool("update", false, "write the files that are made from the sources")

// verbsWithOutput are the commands that take -o.
func verbsWithOutput() (verbs []string) {
	var walk func(prefix string, commands []*cli.Command)
	walk = func(prefix string, commands []*cli.Command) {
		for _, c := range commands {
			if slices.ContainsFunc(c.Flags, func(f cli.Flag) bool { return slices.Contains(f.Names(), "output") }) {
				verbs = append(verbs, prefix+c.Name)
			}
			walk(prefix+c.Name+" ", c.Subcommands)
		}
	}
	walk("", newApp(io.Discard, io.Discard).Commands)
	return verbs
}

// TestResultDocs: every verb with -o has its row, and no row is of another verb.
func TestResultDocs(t *testing.T) {
	documented := map[string]bool{}
	for _, d := range resultDocs {
		for verb := range strings.SplitSeq(d.verbs, ", ") {
			if documented[verb] && d.note == "" {
				t.Errorf("resultDocs has two rows for redoubt %s and does not say when which is printed", verb)
			}
			documented[verb] = true
		}
	}
	for _, verb := range verbsWithOutput() {
		if !documented[verb] {
			t.Errorf("redoubt %s takes -o json, and resultDocs does not say what it prints", verb)
		}
		delete(documented, verb)
	}
	for verb := range documented {
		t.Errorf("resultDocs has a row for redoubt %s, which takes no -o", verb)
	}
	var page bytes.Buffer
	if err := resultsManual(&page); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"\nlog info: list of object\n", "\n  rootHash: string", "\nlog export: object\n  # logExport is the JSON of `redoubt log export -o json`.\n",
		"  rootHash: string  # lower-case hex\n", "\nverify (any other exit): object\n", "  fingerprint: string  # Fingerprint is the SHA-256 of the DER SubjectPublicKeyInfo, lower-case hex; NewKey fills it.\n",
	} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if t.Failed() {
		t.Log(page.String())
	}
}

// TestResultTypes: the types of the rows are those the verbs hand to PrintResult, no more and no fewer, as the type checker sees them.
func TestResultTypes(t *testing.T) {
	printed := printedTypes(t)
	for _, d := range resultDocs {
		name := d.of.String()
		if !printed[name] {
			t.Errorf("%s: no verb prints a %s", d.verbs, name)
		}
		delete(printed, name)
	}
	for name := range printed {
		if name != "any" {
			t.Errorf("a verb prints a %s, which no row describes", name)
		}
	}
}

// printedTypes are the types of what is handed to PrintResult, PrintJSON and printFsck, as reflect names them.
func printedTypes(t *testing.T) map[string]bool {
	t.Helper()
	list, err := exec.Command("go", "list", "-export", "-deps", "-f", "{{if .Export}}{{.ImportPath}} {{.Export}}{{end}}", ".").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	exports := map[string]string{}
	for line := range strings.Lines(string(list)) {
		path, file, _ := strings.Cut(strings.TrimSpace(line), " ")
		exports[path] = file
	}
	printed := map[string]bool{}
	for folder, path := range map[string]string{".": "redoubt.internal/appliance", "./verifying": "redoubt.internal/appliance/verifying"} {
		printedIn(t, folder, path, exports, printed)
	}
	if len(printed) < 20 {
		t.Fatalf("only %v", printed)
	}
	// reflect spells the empty interface out.
	if printed["map[string]any"] {
		delete(printed, "map[string]any")
		printed[reflect.TypeFor[map[string]any]().String()] = true
	}
	return printed
}

// printedIn adds those of one package.
func printedIn(t *testing.T, folder, path string, exports map[string]string, printed map[string]bool) {
	t.Helper()
	fset := token.NewFileSet()
	var files []*ast.File
	names, err := exec.Command("go", "list", "-f", `{{join .GoFiles "\n"}}{{"\n"}}{{join .CgoFiles "\n"}}`, folder).Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	for _, name := range strings.Fields(string(names)) {
		file, err := parser.ParseFile(fset, filepath.Join(folder, name), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
	}
	config := types.Config{Importer: importer.ForCompiler(fset, "gc", func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) })}
	info := types.Info{Types: map[ast.Expr]types.TypeAndValue{}}
	if _, err := config.Check(path, fset, files, &info); err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		for _, declaration := range file.Decls {
			f, ok := declaration.(*ast.FuncDecl)
			if ok && (f.Name.Name == "printFsck" || f.Name.Name == "configSchema") {
				continue
			}
			ast.Inspect(declaration, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok {
					return true
				}
				if slices.Contains([]string{"PrintResult", "PrintJSON", "printFsck"}, called(call)) {
					printed[types.TypeString(types.Unalias(info.Types[call.Args[1]].Type), func(p *types.Package) string {
						if p.Path() == "redoubt.internal/appliance" {
							return "main"
						}
						return p.Name()
					})] = true
				}
				return true
			})
		}
	}
}

// called is the name of what is called, without its package.
func called(call *ast.CallExpr) string {
	switch f := ast.Unparen(call.Fun).(type) {
	case *ast.Ident:
		return f.Name
	case *ast.SelectorExpr:
		return f.Sel.Name
	}
	return ""
}

// TestResultComments: results.json holds the comments of every type the rows reach, as they stand in the sources.
func TestResultComments(t *testing.T) {
	reached := map[reflect.Type]bool{}
	var reach func(reflect.Type)
	reach = func(of reflect.Type) {
		if of = innermost(of); of.Kind() != reflect.Struct || isScalar(of) || reached[of] {
			return
		}
		reached[of] = true
		for f := range of.Fields() {
			reach(f.Type)
		}
	}
	folders := map[string][]string{} // import path to type names
	for _, d := range resultDocs {
		reach(d.shape())
	}
	for of := range reached {
		path := strings.TrimSuffix(typeName(of), "."+of.Name())
		folders[path] = append(folders[path], of.Name())
	}
	comments := map[string]string{}
	for path, names := range folders {
		folder, ours := strings.CutPrefix(path, "redoubt.internal/")
		if path == "main" {
			folder, ours = "appliance", true
		}
		if ours {
			commentsOf(t, filepath.Join("..", folder), path, names, comments)
		}
	}
	want, err := json.MarshalIndent(comments, "", "  ") // maps in the order of their keys
	if err != nil {
		t.Fatal(err)
	}
	want = append(want, '\n')
	if *update {
		if err := os.WriteFile("results.json", want, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if !bytes.Equal(want, resultComments) {
		t.Error("results.json is behind the sources: go test ./appliance -run TestResultComments -update")
	}
}

// commentsOf collects the comments of the named structs of one folder, and of their fields: above a field, else behind it.
func commentsOf(t *testing.T, folder, path string, names []string, to map[string]string) {
	t.Helper()
	fset := token.NewFileSet()
	files, err := fs.Glob(os.DirFS(folder), "*.go")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(fset, filepath.Join(folder, name), nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, declaration := range file.Decls {
			general, ok := declaration.(*ast.GenDecl)
			if !ok {
				continue
			}
			for _, spec := range general.Specs {
				of, ok := spec.(*ast.TypeSpec)
				if !ok || !slices.Contains(names, of.Name.Name) {
					continue
				}
				found[of.Name.Name] = true
				note := func(key string, docs ...*ast.CommentGroup) {
					for _, doc := range docs {
						if text := strings.Join(strings.Fields(doc.Text()), " "); text != "" && to[key] == "" {
							to[key] = text
						}
					}
				}
				note(path+"."+of.Name.Name, of.Doc, general.Doc)
				fields, ok := of.Type.(*ast.StructType)
				if !ok {
					continue
				}
				for _, f := range fields.Fields.List {
					for _, id := range f.Names {
						note(path+"."+of.Name.Name+"."+id.Name, f.Doc, f.Comment)
					}
				}
			}
		}
	}
	for _, name := range names {
		if !found[name] {
			t.Errorf("%s.%s is not in %s (found %v)", path, name, folder, slices.Sorted(maps.Keys(found)))
		}
	}
}
