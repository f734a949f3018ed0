// Command mutation measures how much of a package its own tests hold down: it builds the package's test program once, with every mutation in it
// (conditions negated, boundaries moved by one, and for or, plus for minus), and runs for each the tests that reach it, the quick ones first. A
// mutation that no test notices survives.
//
//	go run ./.ci/mutation [-floor PERCENT] [-sample N] [-only REGEX] FOLDER...
//
// It exits 1 when fewer than the floor are noticed. Generators that recompile for every mutation were measured at half a minute each; one build
// takes as long for all.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

var (
	floor  = flag.Float64("floor", 90, "percentage of mutations the tests must notice")
	sample = flag.Int("sample", 1, "try one mutation of so many")
	only   = flag.String("only", "", "try the mutations alone whose FILE:LINE:COLUMN matches this expression")
)

func main() {
	flag.Parse()
	status := 0
	for _, dir := range flag.Args() {
		if err := measure(dir); err != nil {
			fmt.Fprintln(os.Stderr, "mutation:", err)
			status = 1
		}
	}
	os.Exit(status)
}

func measure(dir string) error {
	wanted, err := regexp.Compile(*only)
	if err != nil {
		return err
	}
	scratch, err := os.MkdirTemp("", "mutation")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	overlay, all, err := instrument(dir, scratch)
	if err != nil {
		return err
	}
	list, err := json.Marshal(map[string]any{"Replace": overlay})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(scratch, "overlay.json"), list, 0o600); err != nil {
		return err
	}
	t := &trial{dir: dir, program: filepath.Join(scratch, "mutated.test")}
	build := exec.Command("go", "test", "-c", "-vet=off", "-overlay", filepath.Join(scratch, "overlay.json"), "-o", t.program, "./"+filepath.Clean(dir))
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("building the mutated tests of %s: %w", dir, err)
	}
	if err := t.rehearse(scratch, len(all)); err != nil {
		return err
	}
	var turns []int
	for n := 1; n <= len(all); n++ {
		if n%*sample == 0 && wanted.MatchString(all[n-1].where) {
			turns = append(turns, n)
		}
	}
	fmt.Printf("%s: %d mutations, %d tried\n", dir, len(all), len(turns))
	return t.all(all, turns)
}

// A trial runs the tests of one package.
type trial struct {
	dir, program string
	reach        [][]test // by mutation: the tests that reach it, the quick ones first
}

type test struct {
	name string
	took time.Duration
}

// twice does f for each, two at a time.
func twice[T any](each []T, f func(T)) {
	var wg sync.WaitGroup
	next := make(chan T)
	for range min(2, runtime.NumCPU()) {
		wg.Go(func() {
			for e := range next {
				f(e)
			}
		})
	}
	for _, e := range each {
		next <- e
	}
	close(next)
	wg.Wait()
}

// rehearse runs each test without a mutation, and learns which mutations it reaches.
func (t *trial) rehearse(scratch string, mutations int) error {
	said, err := exec.Command(t.program, "-test.list", "^(Test|Fuzz|Example)").Output()
	if err != nil {
		return fmt.Errorf("listing the tests of %s: %w", t.dir, err)
	}
	var mu sync.Mutex
	var failed error
	t.reach = make([][]test, mutations+1)
	twice(strings.Fields(string(said)), func(name string) {
		notes, began := filepath.Join(scratch, name), time.Now()
		said, ok := t.run(20*time.Minute, []test{{name: name}}, "MUTATION_REACHED="+notes)
		took := time.Since(began)
		reached, _ := os.ReadFile(notes) // none where it reaches nothing
		mu.Lock()
		defer mu.Unlock()
		if !ok {
			failed = fmt.Errorf("%s fails without a mutation:\n%s", name, said)
		}
		lines := strings.Fields(string(reached))
		slices.Sort(lines)
		for _, line := range slices.Compact(lines) { // a child process notes it again
			if n, err := strconv.Atoi(line); err == nil {
				t.reach[n] = append(t.reach[n], test{name, took})
			}
		}
	})
	for n := range t.reach {
		slices.SortFunc(t.reach[n], func(a, b test) int { return int(a.took - b.took) })
	}
	return failed
}

// all tries the mutations whose turn it is and reports the survivors, and the score by file and in all.
func (t *trial) all(mutations []mutation, turns []int) error {
	var mu sync.Mutex
	tried, noticed := map[string]int{}, map[string]int{}
	twice(turns, func(n int) {
		found := t.noticed(n)
		mu.Lock()
		defer mu.Unlock()
		m := mutations[n-1]
		file, _, _ := strings.Cut(m.where, ":")
		for _, part := range []string{file, ""} {
			if tried[part]++; found {
				noticed[part]++
			}
		}
		if tried[""]%50 == 0 {
			fmt.Fprintf(os.Stderr, "%s: %d of %d, %d noticed\n", t.dir, tried[""], len(turns), noticed[""])
		}
		if !found {
			fmt.Printf("survived %s %s (%d tests reach it)\n", filepath.Join(t.dir, m.where), m.what, len(t.reach[n]))
		}
	})
	score := func(part string) float64 { return 100 * float64(noticed[part]) / float64(max(tried[part], 1)) }
	for _, part := range slices.Backward(slices.Sorted(maps.Keys(tried))) {
		fmt.Printf("%s: %d of %d mutations noticed, %.1f %%\n", filepath.Join(t.dir, part), noticed[part], tried[part], score(part))
	}
	if score("") < *floor {
		return fmt.Errorf("%s: %.1f %% noticed, the floor is %.1f %%", t.dir, score(""), *floor)
	}
	return nil
}

// noticed runs the tests that reach a mutation, the quickest together first and then twice as much at a time. A test that does not end in time is
// taken for one that fails.
func (t *trial) noticed(n int) bool {
	rest := t.reach[n]
	for allowed := time.Second / 4; len(rest) > 0; allowed *= 2 {
		var together time.Duration
		to := 0
		for to == 0 || to < len(rest) && together+rest[to].took <= allowed {
			together += rest[to].took
			to++
		}
		if _, ok := t.run(time.Minute+5*together, rest[:to], "MUTATION="+strconv.Itoa(n)); !ok {
			return true
		}
		rest = rest[to:]
	}
	return false
}

// run runs some tests and tells whether they pass.
func (t *trial) run(limit time.Duration, tests []test, env string) (string, bool) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	var names []string
	for _, e := range tests {
		names = append(names, e.name)
	}
	cmd := exec.CommandContext(ctx, t.program, "-test.failfast", "-test.run", "^("+strings.Join(names, "|")+")$")
	cmd.Dir, cmd.Env = t.dir, append(os.Environ(), env)
	said, err := cmd.CombinedOutput()
	return string(said), err == nil
}
