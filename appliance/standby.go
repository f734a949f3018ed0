package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"redoubt.internal/installer/backup"
	"redoubt.internal/log"
	"redoubt.internal/log/store/bolt"
	"redoubt.internal/mirror"
)

// A standby follows a primary in two ways, which are held against each other: the runs of its backup, from which the state directory is
// made, and its artifact logs as everybody sees them, pulled and proven as a mirror does. It signs nothing.

// standbyState is DIR/followed.json.
type standbyState struct {
	Time  time.Time    `json:"time"`            // of the last look
	Run   uint64       `json:"run"`             // newest run of the backup that is here; 0 before the first
	Made  time.Time    `json:"made,omitzero"`   // when that run was made
	Logs  []standbyLog `json:"logs"`            // as the run has them
	Shown []shownHead  `json:"shown"`           // the largest heads the primary's logs showed
	Error string       `json:"error,omitempty"` // what the last look met
}

type standbyLog struct {
	Log    string `json:"log"`
	Origin string `json:"origin"`
	Size   uint64 `json:"size"`
	Root   string `json:"root"`
}

type shownHead struct {
	Origin string `json:"origin"`
	Size   uint64 `json:"size"`
	Root   string `json:"root"`
}

func (s *Standby) stateFile() string { return s.dir.path("followed.json") }

func (s *Standby) state() (st standbyState, err error) {
	st.Logs, st.Shown = []standbyLog{}, []shownHead{}
	data, err := os.ReadFile(s.stateFile())
	if errors.Is(err, fs.ErrNotExist) {
		return st, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &st)
	}
	if err != nil {
		return st, fmt.Errorf("reading what was followed: %w", err)
	}
	return st, nil
}

func (s *Standby) keep(st standbyState) error {
	data, err := json.MarshalIndent(st, "", "  ")
	if err != nil {
		return err
	}
	return replaceFile(s.stateFile(), append(data, '\n'), 0o640)
}

func (s *Standby) reading() backup.ReadConfig {
	return backup.ReadConfig{From: s.copies(), Appliance: s.Appliance, Identities: s.identities()}
}

// follow takes one look: it brings the copy of the backup up to date, then the mirror of the logs. What one of them meets does not keep
// the other from going on.
func (s *Standby) follow(ctx context.Context, logger *slog.Logger) (standbyState, error) {
	st, err := s.state()
	if err != nil {
		return st, err
	}
	m, err := backup.Replicate(ctx, backup.ReadConfig{From: s.dir.resolve(s.From), Appliance: s.Appliance}, s.copies())
	if err != nil {
		if m, _ = backup.Newest(s.reading()); m == nil {
			return st, err
		}
	}
	st.Run, st.Made, st.Logs = m.Run, m.Time.Time, []standbyLog{}
	for _, l := range m.Logs {
		st.Logs = append(st.Logs, standbyLog{l.Name, l.Origin, l.Size, l.Root.String()})
	}
	if s.Logs != "" {
		err = errors.Join(err, s.pull(ctx, m, &st, logger))
	}
	st.Time, st.Error = clock().UTC(), ""
	if err != nil {
		st.Error = err.Error()
	}
	return st, errors.Join(err, s.keep(st))
}

// pull brings the mirror of the primary's artifact logs up to date. Their keys are those of the signed run.
func (s *Standby) pull(ctx context.Context, m *backup.Manifest, st *standbyState, logger *slog.Logger) error {
	path := s.dir.path("standby.db")
	db, err := bolt.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		db, err = bolt.Create(path)
	}
	if err != nil {
		return err
	}
	defer db.Close()
	c := mirror.ExporterConfig{DB: db, Dir: s.mirrored(), Stream: "standby", Logger: logger}
	for _, l := range m.Logs {
		if shardNumber(l.Name) == 0 {
			continue // read at services of their own
		}
		for _, k := range m.Keys {
			if k.Name != l.Name {
				continue
			}
			key, err := verifierLine(l.Origin, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: k.PublicKey})))
			if err != nil {
				return fmt.Errorf("the key of %s: %w", l.Name, err)
			}
			c.Logs = append(c.Logs, mirror.LogConfig{Origin: l.Origin, VKey: key, Source: strings.TrimSuffix(s.Logs, "/") + "/logs/" + l.Name})
		}
	}
	e, err := mirror.OpenExporter(c)
	if err != nil {
		return err
	}
	defer e.Close()
	report, err := e.Pull(ctx)
	for _, step := range report.Logs {
		if step.Error == "" && step.To > 0 {
			st.show(shownHead{step.Origin, step.To, step.Root})
		}
	}
	if errors.Is(err, mirror.ErrNothing) {
		return nil
	}
	return err
}

// show keeps the largest head of each log.
func (st *standbyState) show(h shownHead) {
	for i, old := range st.Shown {
		if old.Origin == h.Origin {
			if h.Size >= old.Size {
				st.Shown[i] = h
			}
			return
		}
	}
	st.Shown = append(st.Shown, h)
}

// standing is one log as a standby knows it.
type standing struct {
	Log    string `json:"log"`
	Size   uint64 `json:"size"`   // in the newest run
	Shown  uint64 `json:"shown"`  // the largest size the primary's log showed; 0 for one that is not pulled
	Mark   uint64 `json:"mark"`   // how many entries the primary may have signed, by the mark at the fence
	Behind uint64 `json:"behind"` // entries that the newest run lacks
}

// standbyReport is the JSON of `redoubt standby status -o json`.
type standbyReport struct {
	Role     string     `json:"role"` // standby, or promoted
	Domain   string     `json:"domain"`
	Followed time.Time  `json:"followed,omitzero"` // the last look
	Run      uint64     `json:"run"`               // newest run of the primary's backup that is here
	Made     time.Time  `json:"made,omitzero"`
	Logs     []standing `json:"logs"`
	Primary  string     `json:"primary"` // running: it holds its marks; stopped; fenced; unknown: the fence cannot be read
	Reason   string     `json:"reason,omitempty"`
	Error    string     `json:"error,omitempty"` // what the last look met
}

// States of a primary.
const (
	primaryRunning = "running"
	primaryStopped = "stopped"
	primaryFenced  = "fenced"
	primaryUnknown = "unknown"
)

func (s *Standby) report() (standbyReport, error) {
	st, err := s.state()
	r := standbyReport{Role: "standby", Domain: s.Domain, Followed: st.Time, Run: st.Run, Made: st.Made, Logs: []standing{}, Error: st.Error}
	if err != nil {
		return r, err
	}
	if _, err := os.Stat(s.promotedFile()); err == nil {
		r.Role = "promoted"
	}
	fence := s.dir.resolve(s.Fence)
	marks, err := log.ReadHighWaterFile(fence)
	switch {
	case err != nil:
		r.Primary, r.Reason = primaryUnknown, err.Error()
	case held(fence):
		r.Primary = primaryRunning
	default:
		r.Primary = primaryStopped
	}
	for _, l := range st.Logs {
		now := standing{Log: l.Log, Size: l.Size, Shown: shownOf(st.Shown, l.Origin).Size}
		for _, m := range marks {
			if m.Origin != l.Origin {
				continue
			}
			now.Mark = m.Size
			if why := m.Fenced(); why != "" {
				r.Primary, r.Reason = primaryFenced, why
			}
		}
		now.Behind = max(now.Mark, now.Shown, now.Size) - now.Size
		r.Logs = append(r.Logs, now)
	}
	return r, nil
}

func shownOf(all []shownHead, origin string) shownHead {
	for _, h := range all {
		if h.Origin == origin {
			return h
		}
	}
	return shownHead{}
}

// held says whether a process has the lock of a high-water file.
func held(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
}

var errForked = errors.New("the primary showed another history than its backup holds")

// compareShown demands that the logs in an opened copy are those the primary showed.
func compareShown(ctx context.Context, in *stopped, shown []shownHead, origin, role string, size uint64) error {
	h := shownOf(shown, origin)
	if h.Size == 0 || h.Size > size {
		return nil // it is behind, which the marks say too
	}
	c := in.config(role)
	c.Signer, c.HighWater = nil, nil // to read
	l, err := log.Open(ctx, c)
	if err != nil {
		return err
	}
	root, err := l.Root(ctx, h.Size)
	if err != nil {
		return err
	}
	if hex.EncodeToString(root[:]) != h.Root {
		return fmt.Errorf("%w: %s at size %d has root %s there and %x here", errForked, origin, h.Size, h.Root, root)
	}
	return nil
}
