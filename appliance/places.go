package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"redoubt.internal/appliance/cmdline"
	"slices"
	"strings"
	"sync"
)

// place is where an operation happens when roles run apart: in the process of one role, or of several whose answers are joined.
type place struct {
	parts   []string
	join    func(a, b []byte) ([]byte, error)
	present func(part string, answer []byte) ([]byte, error) // what is added to an answer
	absent  func(part string, err error) ([]byte, error)     // the answer of a role that gives none; nil where that is an error
}

var errApart = errors.New("this takes every key and database at once, and the roles run apart")

// placeOf is where an operation is asked for.
func placeOf(cfg *Config, name string, args []byte) (place, error) {
	signing := []string{partCA, partLog, partTSA, partTrust}
	if cfg.Issuer.Enabled {
		signing = append(signing, partOIDC)
	}
	room, _, _ := strings.Cut(name, ".")
	switch name {
	case listKeys.name, checkKeys.name:
		return place{parts: signing, join: joinLists}, nil
	case logInfos.name, logFsck.name:
		return place{parts: []string{partLog, partCA}, join: joinLists}, nil
	case rotateKey.name, finishRotation.name:
		return place{}, cmdline.Hinted(fmt.Errorf("%w: %s", errApart, name), "`systemctl stop redoubt.target`, run this as root, `systemctl start redoubt.target`")
	case attestKey.name:
		var a attestArgs
		err := json.Unmarshal(args, &a)
		return place{parts: []string{orDefault(keyPart(a.Role), partCA)}}, err
	case clientTrust.name:
		return place{parts: []string{partTrust}}, nil
	case tsaStatus.name:
		return place{parts: []string{partTSA}}, nil
	case mintToken.name:
		return place{parts: []string{partOIDC}}, nil
	case readStatus.name:
		return place{parts: runningParts(cfg), join: joinStatus, present: presentStatus, absent: absentStatus}, nil
	case tlsShow.name, tlsRenew.name:
		return place{parts: servingParts(cfg), join: joinTLS}, nil
	}
	switch room {
	case "log":
		var a logArgs
		json.Unmarshal(args, &a) // what else is wrong with them, the process says
		return place{parts: []string{orDefault(keyPart(orDefault(a.Log, roleRekor)), partCA)}}, nil
	case "trust":
		return place{parts: []string{partTrust}}, nil
	}
	return place{parts: []string{partCA}}, nil
}

// gather asks each role of the place, beside each other, and joins what they answer.
func (p place) gather(ask func(part string) ([]byte, error)) (whole []byte, err error) {
	answers, errs := make([][]byte, len(p.parts)), make([]error, len(p.parts))
	var asked sync.WaitGroup
	for i, part := range p.parts {
		asked.Go(func() { answers[i], errs[i] = ask(part) })
	}
	asked.Wait()
	for i, part := range p.parts {
		answer, err := answers[i], errs[i]
		if errors.Is(err, errNoServer) {
			err = roleDown(part)
		}
		switch {
		case err != nil && cmdline.ExitCode(err) == cmdline.ExitUnavailable && p.absent != nil:
			answer, err = p.absent(part, err)
		case err == nil && p.present != nil:
			answer, err = p.present(part, answer)
		}
		if err == nil && whole != nil {
			answer, err = p.join(whole, answer)
		}
		if err != nil {
			return nil, err
		}
		whole = answer
	}
	return whole, nil
}

// runningParts are the roles that an instance with this configuration runs.
func runningParts(cfg *Config) []string {
	return slices.DeleteFunc(slices.Clone(partNames), func(part string) bool {
		return part == partOIDC && !cfg.Issuer.Enabled || part == partAdmission || part == partFront && len(cfg.divided()) == 0
	})
}

// servingParts are those that have listeners with certificates.
func servingParts(cfg *Config) []string {
	serving := slices.DeleteFunc(runningParts(cfg), func(part string) bool {
		return len(cfg.frontNames(parts{part: true}).Strings()) == 0
	})
	if len(serving) == 0 {
		return []string{partCA} // which says that there is none
	}
	return serving
}

func joinLists(a, b []byte) ([]byte, error) {
	var x, y []json.RawMessage
	if err := errors.Join(json.Unmarshal(a, &x), json.Unmarshal(b, &y)); err != nil {
		return nil, fmt.Errorf("joining the answers of two roles: %w", err)
	}
	return json.Marshal(append(x, y...))
}

// joinStatus makes one report of two. A check that both made of the same machine stands once; one that fails counts.
func joinStatus(a, b []byte) ([]byte, error) {
	var x, y statusReport
	if err := errors.Join(json.Unmarshal(a, &x), json.Unmarshal(b, &y)); err != nil {
		return nil, fmt.Errorf("joining the status of two roles: %w", err)
	}
	if x.Domain == "" {
		x, y = y, x
	}
	for _, c := range y.Checks {
		i := slices.IndexFunc(x.Checks, func(o check) bool { return o.Name == c.Name })
		switch {
		case i < 0:
			x.Checks = append(x.Checks, c)
		case x.Checks[i].OK && !c.OK:
			x.Checks[i] = c
		}
	}
	x.Logs, x.Counters = append(x.Logs, y.Logs...), append(x.Counters, y.Counters...)
	x.Software = x.Software || y.Software
	if x.TrustExpiry.IsZero() {
		x.TrustExpiry = y.TrustExpiry
	}
	if x.Mirror == nil {
		x.Mirror = y.Mirror
	}
	x.Ready = ready(x.Checks)
	return json.Marshal(x)
}

// presentStatus adds to a role's report that it runs.
func presentStatus(part string, answer []byte) ([]byte, error) {
	var r statusReport
	if err := json.Unmarshal(answer, &r); err != nil {
		return nil, fmt.Errorf("reading the status of %s: %w", part, err)
	}
	r.Checks = slices.Insert(r.Checks, 0, check{Name: "role " + part, OK: true})
	return json.Marshal(r)
}

func absentStatus(part string, err error) ([]byte, error) {
	if errors.Is(err, errRoleDown) {
		err = errRoleDown
	}
	return json.Marshal(statusReport{Checks: []check{result("role "+part, err, "`systemctl start redoubt-"+part+"`; `journalctl -u redoubt-"+part+"` says why it ended")}})
}

// joinTLS keeps of two roles' certificates the one that ends first, and the names of both.
func joinTLS(a, b []byte) ([]byte, error) {
	var x, y tlsState
	if err := errors.Join(json.Unmarshal(a, &x), json.Unmarshal(b, &y)); err != nil {
		return nil, fmt.Errorf("joining the certificates of two roles: %w", err)
	}
	if y.NotAfter.Before(x.NotAfter) {
		x, y = y, x
	}
	x.Names, x.Error = append(x.Names, y.Names...), orDefault(x.Error, y.Error)
	return json.Marshal(x)
}

// does refuses an operation that is another role's, before anything of this process is asked for it.
func (p parts) does(cfg *Config, name string, args []byte) error {
	if p == nil {
		return nil
	}
	where, err := placeOf(cfg, name, args)
	if err != nil || slices.ContainsFunc(where.parts, p.runs) {
		return err
	}
	return cmdline.Hinted(fmt.Errorf("%w: %s is done by %s", errOtherProcess, name, strings.Join(where.parts, ", ")), "ask on that role's socket, as `redoubt` with --dir does")
}

var errOtherProcess = errors.New("another role's process does this")
