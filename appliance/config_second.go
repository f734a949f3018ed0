package main

import (
	"fmt"
	"path/filepath"
)

// SecondDisk is where everything stands a second time before it is acknowledged.
type SecondDisk struct {
	// Dir is a folder on another disk, absolute; empty the first time. Under systemd it must stand in ReadWritePaths of the unit.
	Dir string `yaml:"dir"`
	// WhenLost says what happens when that disk is full or gone: refuse (default: nothing is signed that does not stand on both) or
	// degrade (signing goes on on one disk, and checks and metrics say so until the next start finds the second one again).
	WhenLost string `yaml:"when-lost,omitempty"`
}

const (
	lostRefuse  = "refuse"
	lostDegrade = "degrade"
)

func (s *SecondDisk) check() (problems []error) {
	if s == nil {
		return nil
	}
	if !filepath.IsAbs(s.Dir) {
		problems = append(problems, fmt.Errorf("second.dir: %q is not absolute", s.Dir))
	}
	if s.WhenLost != "" && s.WhenLost != lostRefuse && s.WhenLost != lostDegrade {
		problems = append(problems, fmt.Errorf("second.when-lost: %q is neither %s nor %s", s.WhenLost, lostRefuse, lostDegrade))
	}
	return problems
}

func (s *SecondDisk) required() bool { return s.WhenLost != lostDegrade }
