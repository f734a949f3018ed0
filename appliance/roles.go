package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/log"
)

// The server is made of roles. One process runs all of them, or each runs as a process and a user of its own: the same wiring with fewer
// rooms. A role has its keys, its databases and its services, and nobody else opens those; what it needs of another role it asks over
// that role's socket, whose kernel says who asks.
//
//	role       keys                            state                             services
//	ca         issuing, ct, audit, exporter,   db/authority.db, mirror/, inbox/  fulcio, ct, mirror
//	           mirror-<name>, tls
//	log        rekor, rekor-<n>                db/rekor*.db                      rekor
//	tsa        tsa                             db/tsa.db                         tsa
//	trust      tuf                             tuf/                              tuf
//	oidc       oidc                            -                                 oidc
//	console    -                               -                                 console, metrics
//	admission  -                               -                                 -
//	front      -                               -                                 a port that several roles share: passes connections on
const (
	partCA        = "ca"
	partLog       = "log"
	partTSA       = "tsa"
	partTrust     = "trust"
	partOIDC      = "oidc"
	partConsole   = "console"
	partAdmission = "admission"
	partFront     = "front"
)

// partNames are the roles, in the order they are listed in. Those before others are what others ask.
var partNames = []string{partCA, partLog, partTSA, partTrust, partOIDC, partConsole, partAdmission, partFront}

// serviceParts says which role serves a service.
var serviceParts = map[string]string{"fulcio": partCA, "ct": partCA, "mirror": partCA, "people": partCA, "rekor": partLog, "tsa": partTSA, "tuf": partTrust, "oidc": partOIDC,
	"console": partConsole, "metrics": partConsole}

// parts are the roles that one process runs; nil is all of them.
type parts map[string]bool

var errOtherRole = errors.New("the key belongs to a role that another process runs")

func (p parts) runs(part string) bool { return p == nil || p[part] }

// String lists the roles.
func (p parts) String() string {
	if p == nil {
		return strings.Join(partNames, ",")
	}
	return strings.Join(slices.DeleteFunc(slices.Clone(partNames), func(name string) bool { return !p[name] }), ",")
}

// only is the single role of a process that runs one; "" of any other.
func (p parts) only() string {
	if len(p) != 1 {
		return ""
	}
	return p.String()
}

// parseParts reads --roles; "" is all of them.
func parseParts(list string) (parts, error) {
	if list == "" {
		return nil, nil
	}
	p := parts{}
	for name := range strings.SplitSeq(list, ",") {
		name = strings.TrimSpace(name)
		if !slices.Contains(partNames, name) {
			return nil, cmdline.Usage("--roles %q: no such role; roles are %s", name, strings.Join(partNames, ", "))
		}
		if p[name] {
			return nil, cmdline.Usage("--roles: %s stands twice", name)
		}
		p[name] = true
	}
	if len(p) == len(partNames) {
		return nil, nil
	}
	return p, nil
}

// runnable refuses roles apart where no role has files of its own.
func (p parts) runnable(cfg *Config) error {
	switch {
	case p == nil:
		return nil
	case cfg.Roles == nil:
		return cmdline.Hinted(errTogether, "`redoubt roles apart --dir %s` gives each role its user and its files, with the server stopped", cfg.Dir)
	}
	return nil
}

// keyPart is the role whose process signs with the key called name; "" of the root's, which no server opens.
func keyPart(name string) string {
	if i := strings.LastIndexByte(name, '-'); instanceNumber(name) > 0 {
		name = name[:i]
	}
	switch {
	case name == roleRekor:
		return partLog
	case name == roleTSA:
		return partTSA
	case name == roleTUF:
		return partTrust
	case name == roleOIDC:
		return partOIDC
	case name == roleRoot:
		return ""
	}
	return partCA // and every mirror-<name>
}

// ours keeps of some keys those that this process signs with.
func (p parts) ours(names []string) []string {
	return slices.DeleteFunc(names, func(name string) bool { return !p.opens(name) })
}

// opens reports whether this process may open the key called name. Where one process runs everything, that is every key.
func (p parts) opens(name string) bool { return p == nil || p[keyPart(name)] }

// refuses is why this process does not open the key called name; nil where it does.
func (p parts) refuses(name string) error {
	if p.opens(name) {
		return nil
	}
	return fmt.Errorf("%w: %s is %s's, and this is %s", errOtherRole, name, orDefault(keyPart(name), "ceremonies"), p)
}

// services are those of the configuration that this process serves.
func (p parts) services(cfg *Config) map[string]*Service {
	all := cfg.Services.all()
	maps.DeleteFunc(all, func(name string, _ *Service) bool { return !p.runs(serviceParts[name]) })
	return all
}

// logMarks is what the name of a high-water file ends in that holds the marks of the artifact logs alone.
const logMarks = ".log"

// markFile is a high-water file and the role whose logs have their marks there; part is "" where all have.
type markFile struct{ path, part string }

// openMark is one that is open.
type openMark struct {
	*log.File
	markFile
}

// covers reports whether a log has its mark in the file.
func (m markFile) covers(name string) bool { return m.part == "" || keyPart(name) == m.part }

// markFiles are the high-water files that a process with the roles p writes. One process writes a file: where roles may run apart, the
// artifact logs have files of their own.
func (c *Config) markFiles(p parts) (all []markFile) {
	files, _ := layout{c.Dir}.marksIn(c.Log)
	for _, path := range files {
		if c.Roles == nil {
			all = append(all, markFile{path, ""})
			continue
		}
		for _, m := range []markFile{{path, partCA}, {path + logMarks, partLog}} {
			if p.runs(m.part) {
				all = append(all, m)
			}
		}
	}
	return all
}

// at is the configuration for its state directory at dir.
func (c *Config) at(dir layout) *Config {
	next := *c
	next.Dir = dir.root
	return &next
}
