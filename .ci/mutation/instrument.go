package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// A mutation is one place and what is done there.
type mutation struct{ where, what string }

// switches is the file added to a mutated package: every mutation is there from the start and asks whether it is its turn. With MUTATION_REACHED
// it notes there which mutations are reached at all.
const switches = `package %s

import (
	"cmp"
	"fmt"
	"os"
	"strconv"
	"sync/atomic"
)

var (
	mutationTurn, _ = strconv.Atoi(os.Getenv("MUTATION"))
	mutationNotes   = os.Getenv("MUTATION_REACHED")
	mutationNoted   [%d]atomic.Bool
)

func mutTurn(n int) bool {
	if mutationNotes != "" && !mutationNoted[n].Swap(true) {
		f, err := os.OpenFile(mutationNotes, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			panic(err)
		}
		defer f.Close()
		fmt.Fprintln(f, n)
	}
	return n == mutationTurn
}

func mutNot(n int, b bool) bool { return b != mutTurn(n) }

func mutAnd(n int, a bool, b func() bool) bool {
	if mutTurn(n) {
		return a || b()
	}
	return a && b()
}

func mutOr(n int, a bool, b func() bool) bool {
	if mutTurn(n) {
		return a && b()
	}
	return a || b()
}

func mutLess[T cmp.Ordered](n int, a, b T) bool { return a < b || mutTurn(n) && a == b }

func mutLessEqual[T cmp.Ordered](n int, a, b T) bool { return a < b || !mutTurn(n) && a == b }

type mutNumber interface {
	~int | ~int8 | ~int16 | ~int32 | ~int64 | ~uint | ~uint8 | ~uint16 | ~uint32 | ~uint64 | ~float32 | ~float64
}

func mutAdd[T mutNumber](n int, a, b T) T {
	if mutTurn(n) {
		return a - b
	}
	return a + b
}

func mutSubtract[T mutNumber](n int, a, b T) T {
	if mutTurn(n) {
		return a + b
	}
	return a - b
}
`

// A rewriter writes a file again with its mutations built in.
type rewriter struct {
	set    *token.FileSet
	source []byte
	info   *types.Info
	all    *[]mutation
	unused map[ast.Expr]bool // calls whose result nobody asks for: to negate it changes nothing
}

// instrument writes the files of the package in dir, with switches, into out and returns the overlay for the go command and the mutations.
func instrument(dir, out string) (map[string]string, []mutation, error) {
	set := token.NewFileSet()
	names, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return nil, nil, err
	}
	var files []*ast.File
	var paths []string
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(set, name, nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, nil, err
		}
		files, paths = append(files, f), append(paths, name)
	}
	if len(files) == 0 {
		return nil, nil, fmt.Errorf("no Go file in %s", dir)
	}
	info := &types.Info{Types: map[ast.Expr]types.TypeAndValue{}}
	imports, err := exported(dir)
	if err != nil {
		return nil, nil, err
	}
	check := types.Config{Importer: importer.ForCompiler(set, "gc", imports)}
	if _, err := check.Check(dir, set, files, info); err != nil {
		return nil, nil, err
	}
	overlay, all := map[string]string{}, []mutation{}
	put := func(name string, text []byte) error {
		whole, err := filepath.Abs(filepath.Join(dir, filepath.Base(name)))
		if err != nil {
			return err
		}
		overlay[whole] = filepath.Join(out, filepath.Base(name))
		return os.WriteFile(overlay[whole], text, 0o600)
	}
	for i, f := range files {
		source, err := os.ReadFile(paths[i])
		if err != nil {
			return nil, nil, err
		}
		r := rewriter{set, source, info, &all, map[ast.Expr]bool{}}
		if err := put(paths[i], r.text(f, f.FileStart, f.FileEnd)); err != nil {
			return nil, nil, err
		}
	}
	return overlay, all, put("mutation_switches.go", fmt.Appendf(nil, switches, files[0].Name.Name, len(all)+1))
}

// exported finds the compiled packages that the one in dir imports.
func exported(dir string) (func(string) (io.ReadCloser, error), error) {
	list := exec.Command("go", "list", "-export", "-deps", "-f", "{{.ImportPath}}={{.Export}}", ".")
	list.Dir, list.Stderr = dir, os.Stderr
	said, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("listing what %s imports: %w", dir, err)
	}
	where := map[string]string{}
	for line := range strings.Lines(string(said)) {
		name, file, _ := strings.Cut(strings.TrimSpace(line), "=")
		where[name] = file
	}
	return func(path string) (io.ReadCloser, error) { return os.Open(where[path]) }, nil
}

// text is the source from one position to another, with the mutations of the expressions in node built in.
func (r rewriter) text(node ast.Node, from, to token.Pos) []byte {
	var out bytes.Buffer
	at := from
	ast.Inspect(node, func(n ast.Node) bool {
		if s, ok := n.(*ast.ExprStmt); ok {
			r.unused[s.X] = true
		}
		e, ok := n.(ast.Expr)
		if !ok || n == nil || n.Pos() < at {
			return n != nil && !isConst(n)
		}
		if changed, ok := r.mutate(e); ok {
			out.Write(r.slice(at, e.Pos()))
			out.WriteString(changed)
			at = e.End()
			return false
		}
		return true
	})
	out.Write(r.slice(at, to))
	return out.Bytes()
}

func isConst(n ast.Node) bool {
	d, ok := n.(*ast.GenDecl)
	return ok && d.Tok == token.CONST
}

func (r rewriter) slice(from, to token.Pos) []byte {
	return r.source[r.set.Position(from).Offset:r.set.Position(to).Offset]
}

// sub is the text of a part of the expression that is rewritten.
func (r rewriter) sub(e ast.Expr) string { return string(r.text(e, e.Pos(), e.End())) }

// next numbers a mutation.
func (r rewriter) next(e ast.Expr, what string) int {
	p := r.set.Position(e.Pos())
	*r.all = append(*r.all, mutation{fmt.Sprintf("%s:%d:%d", filepath.Base(p.Filename), p.Line, p.Column), what + ": " + strings.Join(strings.Fields(string(r.slice(e.Pos(), e.End()))), " ")})
	return len(*r.all)
}

// mutate writes one expression with its mutation, or says that it has none.
func (r rewriter) mutate(e ast.Expr) (string, bool) {
	t := r.info.Types[e]
	if t.Value != nil || t.Type == nil || t.IsType() || r.unused[e] {
		return "", false
	}
	switch x := e.(type) {
	case *ast.BinaryExpr:
		return r.binary(x)
	case *ast.UnaryExpr: // !x
		if x.Op == token.NOT {
			return fmt.Sprintf("mutNot(%d, %s%s)", r.next(e, "negated"), "!", r.sub(x.X)), true
		}
	case *ast.CallExpr:
		if b, ok := t.Type.Underlying().(*types.Basic); ok && b.Kind() == types.Bool && t.Type == types.Typ[types.Bool] {
			n := r.next(e, "negated")
			var out bytes.Buffer // the call itself stays, its parts are mutated
			out.WriteString(fmt.Sprintf("mutNot(%d, %s(", n, r.sub(x.Fun)))
			for i, a := range x.Args {
				if i > 0 {
					out.WriteString(", ")
				}
				out.WriteString(r.sub(a))
			}
			if x.Ellipsis.IsValid() {
				out.WriteString("...")
			}
			out.WriteString("))")
			return out.String(), true
		}
	}
	return "", false
}

func (r rewriter) binary(x *ast.BinaryExpr) (string, bool) {
	both := func(name, what string) (string, bool) {
		return fmt.Sprintf("%s(%d, %s, %s)", name, r.next(x, what), r.sub(x.X), r.sub(x.Y)), true
	}
	operand := r.info.Types[x.X].Type
	if o, ok := operand.Underlying().(*types.Basic); ok && o.Info()&types.IsUntyped != 0 {
		operand = r.info.Types[x.Y].Type
	}
	basic, isBasic := operand.Underlying().(*types.Basic)
	switch x.Op {
	case token.LAND, token.LOR:
		name := map[token.Token]string{token.LAND: "mutAnd", token.LOR: "mutOr"}[x.Op]
		n := r.next(x, "and for or")
		return fmt.Sprintf("%s(%d, %s, func() bool { return %s })", name, n, r.sub(x.X), r.sub(x.Y)), true
	case token.EQL, token.NEQ:
		return fmt.Sprintf("mutNot(%d, %s %s %s)", r.next(x, "negated"), r.sub(x.X), x.Op, r.sub(x.Y)), true
	case token.LSS, token.GTR, token.LEQ, token.GEQ:
		if !isBasic {
			return "", false
		}
		a, b := r.sub(x.X), r.sub(x.Y)
		if x.Op == token.GTR || x.Op == token.GEQ {
			a, b = b, a
		}
		name := map[token.Token]string{token.LSS: "mutLess", token.GTR: "mutLess", token.LEQ: "mutLessEqual", token.GEQ: "mutLessEqual"}[x.Op]
		return fmt.Sprintf("mutNot(%d, %s(%d, %s, %s))", r.next(x, "negated"), name, r.next(x, "boundary"), a, b), true
	case token.ADD, token.SUB:
		if isBasic && basic.Info()&(types.IsInteger|types.IsFloat) != 0 {
			return both(map[token.Token]string{token.ADD: "mutAdd", token.SUB: "mutSubtract"}[x.Op], "plus for minus")
		}
	}
	return "", false
}
