package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/log/strictyaml"
)

// Standby is standby.yaml in the folder of a standby: which appliance it follows, and what it becomes of it. Relative paths count from
// that folder.
type Standby struct {
	// Domain is the domain of the primary.
	Domain string `yaml:"domain"`
	// Appliance is the primary's fingerprint, as `redoubt backup create` prints it there.
	Appliance string `yaml:"appliance"`
	// From is the folder of the primary's backup (backup.path there) as this machine sees it.
	From string `yaml:"from"`
	// Identities are files of age keys: one of those the primary seals its backups for.
	Identities []string `yaml:"identities,omitempty"`
	// Logs is the URL of the primary's rekor service. Its artifact logs are pulled from there and proven as a mirror does; what they
	// showed is what a promotion is held to. Left out, only the backup is followed.
	Logs string `yaml:"logs,omitempty"`
	// Fence is the file of log.highwater that the primary raises, on a place that outlives the primary and that this machine reaches.
	// Promotion takes it away from the primary; without it there is none.
	Fence string `yaml:"fence"`
	// Second is the folder of the primary's log.second, if this machine can come to it: it has what the last backup lacks.
	Second string `yaml:"second,omitempty"`
	// Target is the state directory a promotion makes, on the disk of this folder (default state).
	Target string `yaml:"target,omitempty"`
	// Every is how often the primary is looked at (default 5s).
	Every Duration `yaml:"every,omitempty"`
	// Listen is where /healthz and /readyz are answered while this is a standby: host:port. /readyz is 429 then.
	Listen string `yaml:"listen,omitempty"`
	// Approvers are the people who approve a promotion.
	Approvers *Approvers `yaml:"approvers"`

	dir layout
}

const (
	standbyFile         = "standby.yaml"
	defaultStandbyEvery = 5 * time.Second
)

// loadStandby reads and checks DIR/standby.yaml.
func loadStandby(dir string) (*Standby, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(filepath.Join(dir, standbyFile))
	if err != nil {
		return nil, cmdline.Hinted(fmt.Errorf("reading the standby's configuration: %w", err), "docs/standby.md has one to begin with")
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, strictyaml.MaxBytes+1))
	if err != nil {
		return nil, fmt.Errorf("reading the standby's configuration: %w", err)
	}
	s, err := decodeYAML[Standby](data)
	if err == nil {
		s.dir = layout{dir}
		err = errors.Join(s.check()...)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	return s, nil
}

func (s *Standby) check() (problems []error) {
	for name, value := range map[string]string{"domain": s.Domain, "appliance": s.Appliance, "from": s.From, "fence": s.Fence} {
		if value == "" {
			problems = append(problems, fmt.Errorf("%w: %s is missing", errConfig, name))
		}
	}
	if s.Approvers == nil {
		problems = append(problems, fmt.Errorf("%w: approvers: a promotion needs two people who approve it", errConfig))
	} else if s.Approvers.Threshold < 2 {
		problems = append(problems, fmt.Errorf("%w: approvers.threshold: %d, and a promotion needs at least two", errConfig, s.Approvers.Threshold))
	}
	return append(problems, s.Approvers.check()...)
}

// Files of a standby's folder.
func (s *Standby) copies() string   { return s.dir.path("copies") }
func (s *Standby) mirrored() string { return s.dir.path("mirror") }
func (s *Standby) ready() string    { return s.dir.path("ready") }
func (s *Standby) secrets() string  { return s.dir.path("secrets") }
func (s *Standby) target() string   { return s.dir.resolve(orDefault(s.Target, "state")) }

func (s *Standby) identities() (files []string) {
	for _, f := range s.Identities {
		files = append(files, s.dir.resolve(f))
	}
	return files
}
