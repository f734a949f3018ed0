package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"

	"github.com/rogpeppe/go-internal/testscript"
)

// stateTemplate is one state directory, made once and copied by newstate: making RSA keys takes longer than most scripts.
var stateTemplate = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "redoubt-template-")
	if err != nil {
		return "", err
	}
	_, err = initialise(context.Background(), initRequest{Dir: filepath.Join(dir, "state"), Domain: "corp.internal", Profile: profileDev, Keys: "soft:", Actor: "test"},
		slog.New(slog.DiscardHandler), io.Discard)
	return dir, err
})

// newstate DIR is `redoubt init --dir DIR --domain corp.internal` from a copy, with ports of its own.
func newState(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 1, "newstate DIR")
	from, err := stateTemplate()
	ts.Check(err)
	ts.Check(copyState(filepath.Join(from, "state"), ts.MkAbs(args[0])))
}

// copyState copies a stopped state directory with its high-water file and gives the copy free ports.
func copyState(from, to string) error {
	for _, pair := range [][2]string{{from, to}, {layout{from}.highWater(), layout{to}.highWater()}} {
		if out, err := exec.Command("cp", "-a", pair[0], pair[1]).CombinedOutput(); err != nil {
			return fmt.Errorf("copying: %w: %s", err, out)
		}
	}
	cfg, err := loadConfig(layout{to}.config())
	if err != nil {
		return err
	}
	addresses, err := ownLoopback(len(serviceNames))
	if err != nil {
		return err
	}
	for i, name := range serviceNames {
		cfg.Services.set(name, &Service{Listen: addresses[i], URL: "http://" + addresses[i]})
	}
	cfg.Dir = ""
	return writeConfig(layout{to}, cfg)
}

// givenLoopback are the addresses that tests of this process were given.
var givenLoopback sync.Map

// ownLoopback draws n free ports in a row that no other test was given: a server that is stopped does not hold its own.
func ownLoopback(n int) ([]string, error) {
	for {
		addresses, err := freeLoopback(n)
		if err != nil || !slices.ContainsFunc(addresses, func(a string) bool {
			_, given := givenLoopback.LoadOrStore(a, true)
			return given
		}) {
			return addresses, err
		}
	}
}
