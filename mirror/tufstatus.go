package mirror

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"time"

	"redoubt.internal/mirror/freshness"
	"redoubt.internal/mirror/parcel"
)

// TUFStatus says where a TUF repository stands. Its JSON form is stable.
type TUFStatus struct {
	Name     string          `json:"name"`
	Versions parcel.Versions `json:"versions"`
	Observed time.Time       `json:"upstream_observed_at,omitzero"` // when the exporter says it last saw this; unproven
	AsOf     time.Time       `json:"verified_at,omitzero"`          // the time all of it was valid at: when its parcel was made
	Imported time.Time       `json:"imported_at,omitzero"`
	Expires  time.Time       `json:"expires,omitzero"` // the earliest end of any role
	Expiring string          `json:"expiring,omitempty"`
	Age      string          `json:"age,omitempty"`      // since Observed
	StaleBy  string          `json:"stale_by,omitempty"` // since Expires, when that is past
	Level    freshness.Level `json:"level"`              // what the thresholds make of the age; deny-all before anything was imported
	Changed  *TrustChange    `json:"last_change,omitempty"`
}

// Err is ErrStale where the thresholds deny something.
func (s TUFStatus) Err() error {
	if s.Level != freshness.DenyNew && s.Level != freshness.DenyAll {
		return nil
	}
	if s.Observed.IsZero() {
		return fmt.Errorf("TUF repository %q: %w: nothing of it was imported", s.Name, freshness.ErrStale)
	}
	return fmt.Errorf("TUF repository %q: %w: %s, age %s", s.Name, freshness.ErrStale, s.Level, s.Age)
}

func (h TUFHead) status(r *tufRepo, now time.Time) TUFStatus {
	age := now.Sub(h.Observed)
	s := TUFStatus{
		Name: h.Name, Versions: h.Versions, Observed: h.Observed.UTC(), AsOf: h.AsOf.UTC(), Imported: h.Imported.UTC(), Expires: h.Expires.UTC(),
		Expiring: h.Expiring, Age: age.Truncate(time.Second).String(), Level: freshness.Fresh,
	}
	if by := h.StaleBy(now); by > 0 {
		s.StaleBy = by.Truncate(time.Second).String()
	}
	if r != nil {
		s.Level = r.Stale.Of(age)
	}
	return s
}

// TUFStatuses says where the TUF repositories stand, those configured and those that were imported once, by name.
func (m *Mirror) TUFStatuses() ([]TUFStatus, error) {
	heads, err := tufHeads(m.c.DB, keyTUF)
	if err != nil {
		return nil, err
	}
	changes, err := m.TrustHistory("")
	if err != nil {
		return nil, err
	}
	names := maps.Clone(heads)
	for name := range m.tuf {
		if _, ok := names[name]; !ok {
			names[name] = TUFHead{}
		}
	}
	out := []TUFStatus{}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		h, ok := heads[name]
		if !ok {
			s := TUFStatus{Name: name, Level: freshness.Fresh}
			if m.tuf[name].Stale != (freshness.Thresholds{}) {
				s.Level = freshness.DenyAll
			}
			out = append(out, s)
			continue
		}
		s := h.status(m.tuf[name], m.c.Now())
		for _, c := range changes {
			if c.Name == name {
				s.Changed = &c
			}
		}
		out = append(out, s)
	}
	return out, nil
}

// TUF returns the last good state of a repository, ErrNotFound when there is none.
func (m *Mirror) TUF(name string) (TUFHead, error) {
	heads, err := tufHeads(m.c.DB, keyTUF)
	if err != nil {
		return TUFHead{}, err
	}
	h, ok := heads[name]
	if !ok {
		return h, fmt.Errorf("%w: TUF repository %q; parcels bring it", ErrNotFound, name)
	}
	return h, nil
}

// TUFTarget returns a target file of a head.
func (m *Mirror) TUFTarget(h TUFHead, name string) ([]byte, error) { return h.readTarget(m.root, name) }

// TUFMetadata returns a metadata file of a head, as the repository signed it.
func (m *Mirror) TUFMetadata(h TUFHead, name string) ([]byte, error) { return h.readMeta(m.root, name) }

// Trust says whom a head's trusted root has us trust; nothing where it has none.
func (m *Mirror) Trust(h TUFHead) (logs []TrustedLog, authorities []TrustedAuthority, err error) {
	data, err := h.readTarget(m.root, trustedRootName)
	if errors.Is(err, ErrNotFound) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	t, err := readTrusted(data)
	return t.logs, t.authorities, err
}

// TUFReport is what Reconcile found of a repository.
type TUFReport struct {
	TUFStatus
	Verified int      `json:"files_verified"` // metadata by its signatures, from the first root on, and target files by their digests
	Problems []string `json:"problems"`
}

// recheckTUF verifies every stored repository again, from its first root on, as of the time it was accepted at.
func (m *Mirror) recheckTUF(ctx context.Context) ([]TUFReport, error) {
	statuses, err := m.TUFStatuses()
	if err != nil {
		return nil, err
	}
	heads, err := tufHeads(m.c.DB, keyTUF)
	if err != nil {
		return nil, err
	}
	out := []TUFReport{}
	for _, s := range statuses {
		r := TUFReport{TUFStatus: s, Problems: []string{}}
		if h, ok := heads[s.Name]; ok {
			if r.Verified, err = m.verifyStored(ctx, h); ctx.Err() != nil {
				return nil, ctx.Err()
			} else if err != nil {
				r.Problems = append(r.Problems, oneLine(err))
			}
		}
		out = append(out, r)
	}
	return out, nil
}

func (m *Mirror) verifyStored(ctx context.Context, h TUFHead) (n int, err error) {
	repo := m.tuf[h.Name]
	if repo == nil {
		return 0, errors.New("it is not configured any more, so nothing of it can be verified")
	}
	first, err := h.readMeta(m.root, tufAsk{"root", h.First}.name())
	if err != nil {
		return 0, err
	}
	versions := map[string]int64{"timestamp": h.Versions.Timestamp}
	fetch := func(_ context.Context, ask tufAsk) ([]byte, error) {
		if v, ok := versions[ask.role]; ok {
			ask.version = v
		}
		if ask.role == "root" && ask.version > h.Versions.Root {
			return nil, fs.ErrNotExist
		}
		return h.readMeta(m.root, ask.name())
	}
	held := tufHeld{root: first, digests: map[string]parcel.Digest{}}
	for _, f := range h.Files {
		held.digests[f.Name] = f.SHA256
	}
	state, err := repo.verify(ctx, held, h.AsOf, fetch)
	if err != nil {
		return 0, err
	}
	if state.versions != h.Versions {
		return 0, fmt.Errorf("%w: the files lead to %v, %v was accepted", ErrDamaged, state.versions, h.Versions)
	}
	n = 1 + len(state.files)
	for _, d := range h.digests() {
		if _, err := readTUF(m.root, tufDir(h.Name), "targets/"+d.String(), d); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}
