// Command mutation measures how much of a package its own tests hold down: it builds the package's test program once, with every mutation in it
// (conditions negated, boundaries moved by one, and for or, plus for minus), and runs it once for each. A mutation that no test notices survives.
//
//	go run ./.ci/mutation [-floor PERCENT] [-sample N] FOLDER...
//
// It exits 1 when fewer than the floor are noticed. Generators that recompile for every mutation were measured at half a minute each; one build
// takes as long for all.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"
)

var (
	floor  = flag.Float64("floor", 90, "percentage of mutations the tests must notice")
	sample = flag.Int("sample", 1, "try one mutation of so many")
	only   = flag.String("only", "", "try the mutations alone whose FILE:LINE:COLUMN matches this expression")
	quick  = flag.Bool("quick", false, "leave out the tests that take a tenth of the time each, to look at survivors again")
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
	program := filepath.Join(scratch, "mutated.test")
	build := exec.Command("go", "test", "-c", "-vet=off", "-overlay", filepath.Join(scratch, "overlay.json"), "-o", program, "./"+filepath.Clean(dir))
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("building the mutated tests of %s: %w", dir, err)
	}
	t := &trial{dir: dir, program: program, limit: 20 * time.Minute}
	began := time.Now()
	said, ok := t.run(0, "-test.v")
	if !ok {
		return fmt.Errorf("the tests of %s fail without a mutation:\n%s", dir, said)
	}
	t.slow, t.limit = slowest(said), 2*time.Minute+5*time.Since(began)
	return t.all(all)
}

// A trial runs the tests of one package.
type trial struct {
	dir, program string
	slow         string // expression for the tests that take long
	limit        time.Duration
}

// all tries every mutation, two at a time, and reports the survivors.
func (t *trial) all(mutations []mutation) error {
	var mu sync.Mutex
	var wg sync.WaitGroup
	tried, noticed := 0, 0
	next := make(chan int)
	for range min(2, runtime.NumCPU()) {
		wg.Go(func() {
			for n := range next {
				found := t.noticed(n)
				mu.Lock()
				if tried++; found {
					noticed++
				} else {
					fmt.Printf("survived %s %s\n", filepath.Join(t.dir, mutations[n-1].where), mutations[n-1].what)
				}
				mu.Unlock()
			}
		})
	}
	wanted, err := regexp.Compile(*only)
	if err != nil {
		return err
	}
	for n := 1; n <= len(mutations); n++ {
		if n%*sample == 0 && wanted.MatchString(mutations[n-1].where) {
			next <- n
		}
	}
	close(next)
	wg.Wait()
	fmt.Printf("%s: %d mutations\n", t.dir, len(mutations))
	score := 100 * float64(noticed) / float64(max(tried, 1))
	fmt.Printf("%s: %d of %d mutations noticed, %.1f %%\n", t.dir, noticed, tried, score)
	if score < *floor {
		return fmt.Errorf("%s: %.1f %% noticed, the floor is %.1f %%", t.dir, score, *floor)
	}
	return nil
}

// noticed runs the quick tests first, and the slow ones only when those pass.
func (t *trial) noticed(n int) bool {
	if t.slow == "" {
		_, ok := t.run(n)
		return !ok
	}
	if _, ok := t.run(n, "-test.skip", t.slow); !ok {
		return true
	}
	if *quick {
		return false
	}
	_, ok := t.run(n, "-test.run", t.slow)
	return !ok
}

// run runs the tests with one mutation on, 0 for none. A test that does not end in time is taken for one that fails.
func (t *trial) run(n int, args ...string) (string, bool) {
	ctx, cancel := context.WithTimeout(context.Background(), t.limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, t.program, append(args, "-test.failfast")...)
	cmd.Dir, cmd.Env = t.dir, append(os.Environ(), "MUTATION="+strconv.Itoa(n))
	said, err := cmd.CombinedOutput()
	return string(said), err == nil
}

var finished = regexp.MustCompile(`(?m)^--- PASS: (\w+) \(([0-9.]+)s\)`)

// slowest makes an expression for the tests that take a tenth of the time each.
func slowest(said string) string {
	var names []string
	total := 0.0
	for _, m := range finished.FindAllStringSubmatch(said, -1) {
		s, _ := strconv.ParseFloat(m[2], 64)
		total += s
	}
	for _, m := range finished.FindAllStringSubmatch(said, -1) {
		if s, _ := strconv.ParseFloat(m[2], 64); s > total/10 {
			names = append(names, m[1])
		}
	}
	if len(names) == 0 {
		return ""
	}
	return "^(" + strings.Join(names, "|") + ")$"
}
