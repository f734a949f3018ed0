package mirror

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"redoubt.internal/log/store"
	"redoubt.internal/mirror/freshness"
	"redoubt.internal/mirror/parcel"
)

// TUFStep is what a pull, a parcel or an import did for a TUF repository. Its JSON form is stable.
type TUFStep struct {
	Name     string          `json:"name"`
	From     parcel.Versions `json:"from"`
	To       parcel.Versions `json:"to"`
	Observed time.Time       `json:"upstream_observed_at,omitzero"`
	Expires  time.Time       `json:"expires,omitzero"`   // the earliest end of any role
	StaleBy  string          `json:"stale_by,omitempty"` // how long ago that was
	Changes  []string        `json:"changes,omitempty"`  // what it changes of whom it has us trust
	Left     string          `json:"left_out,omitempty"` // why an export did not take it
	Error    string          `json:"error,omitempty"`
}

func newTUFStep(from *TUFHead, to TUFHead, now time.Time) TUFStep {
	s := TUFStep{Name: to.Name, To: to.Versions, Observed: to.Observed.UTC(), Expires: to.Expires}
	if from != nil {
		s.From = from.Versions
	}
	if by := to.StaleBy(now); by > 0 {
		s.StaleBy = by.Truncate(time.Second).String()
	}
	return s
}

// pullTUFs brings every TUF repository of the configuration up to date from its source. One that fails does not stop the others.
func (e *Exporter) pullTUFs(ctx context.Context) (steps []TUFStep, moved bool, err error) {
	heads, err := tufHeads(e.c.DB, keyTUFCollected)
	if err != nil {
		return nil, false, err
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(e.tuf)) {
		var held *TUFHead
		if h, ok := heads[name]; ok {
			held = &h
		}
		head, err := e.pullTUF(ctx, e.tuf[name], held)
		step := TUFStep{Name: name}
		if held != nil {
			step = newTUFStep(held, *held, e.c.Now())
		}
		if err != nil {
			step.Error = oneLine(err)
			errs = append(errs, full(err))
		} else {
			step = newTUFStep(held, head, e.c.Now())
			moved = moved || step.From != step.To
		}
		steps = append(steps, step)
	}
	return steps, moved, errors.Join(errs...)
}

func (e *Exporter) pullTUF(ctx context.Context, r *tufRepo, held *TUFHead) (TUFHead, error) {
	if r.Source == "" {
		return TUFHead{}, fmt.Errorf("%w: TUF repository %q has no source to be pulled from", ErrConfig, r.Name)
	}
	at, err := openPlace(r.Source, e.c.Network, nil)
	if err != nil {
		return TUFHead{}, err
	}
	believed, err := r.held(e.root, held)
	if err != nil {
		return TUFHead{}, err
	}
	now := e.c.Now().UTC()
	src := tufSource{read: at.read, consistent: true}
	state, err := r.verify(ctx, believed, now, src.metadata)
	if err != nil {
		return TUFHead{}, err
	}
	src.consistent = state.consistent
	if err := r.keepTUF(e.root, tufDir(r.Name), held == nil, state); err != nil {
		return TUFHead{}, err
	}
	got := make(map[string]bool)
	for _, t := range state.targets {
		if got[t.SHA256.String()] {
			continue
		}
		got[t.SHA256.String()] = true
		b, err := src.target(ctx, t)
		if err != nil {
			return TUFHead{}, err
		}
		if err := r.keepTarget(e.root, tufDir(r.Name), state, t.SHA256, b); err != nil {
			return TUFHead{}, err
		}
	}
	if err := syncfs(e.root); err != nil {
		return TUFHead{}, err
	}
	head := r.head(held, state)
	head.Observed, head.AsOf, head.Imported = now, now, now
	return head, e.c.DB.Update(func(tx store.Tx) error { return put(tx, keyTUFCollected+r.Name, head) })
}

// tufSource is a repository as a server or a folder has it: N.root.json, timestamp.json, and the rest with version and digest in
// the name, or without where the root says so.
type tufSource struct {
	read       reader
	consistent bool
}

func (s *tufSource) metadata(ctx context.Context, ask tufAsk) ([]byte, error) {
	name := fmt.Sprintf("%d.%s.json", ask.version, ask.role)
	if ask.role == metadata.TIMESTAMP || !s.consistent && ask.role != metadata.ROOT {
		name = ask.role + ".json"
	}
	b, err := s.read(ctx, name, ask.limit(), nil)
	if ask.role == metadata.ROOT && errors.Is(err, ErrRemote) && errors.Is(err, fs.ErrPermission) {
		return nil, fs.ErrNotExist
	}
	if ask.role == metadata.ROOT {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if err == nil {
			if root, perr := metadata.Root().FromBytes(b); perr == nil { // what it says is verified before it is used again
				s.consistent = root.Signed.ConsistentSnapshot
			}
		}
	}
	return b, remoteErr("reading "+name, err)
}

func (s *tufSource) target(ctx context.Context, t TUFTarget) ([]byte, error) {
	limit := max(t.Bytes, 1)
	if !s.consistent {
		b, err := s.read(ctx, "targets/"+t.Name, limit, nil)
		return b, remoteErr("reading target "+t.Name, err)
	}
	dir, base := path.Split(t.Name)
	b, err := s.read(ctx, "targets/"+dir+t.SHA256.String()+"."+base, limit, nil)
	if sha512 := t.files.Hashes["sha512"]; errors.Is(err, fs.ErrNotExist) && sha512 != nil {
		b, err = s.read(ctx, "targets/"+dir+sha512.String()+"."+base, limit, nil)
	}
	return b, remoteErr("reading target "+t.Name, err)
}

// tufStep is the step of a repository that a parcel made at a time carries; why says why it carries none.
func (e *Exporter) tufStep(r *tufRepo, sent *TUFHead, to TUFHead, created time.Time) (step parcel.TUF, why string) {
	if created.After(to.Expires) {
		return step, fmt.Sprintf("its %s expired at %s and nothing newer was pulled", to.Expiring, to.Expires.Format(time.RFC3339))
	}
	if created.Before(to.AsOf.Truncate(time.Second)) {
		return step, fmt.Sprintf("it was verified at %s, after the parcel says it was made", to.AsOf.Format(time.RFC3339))
	}
	step = parcel.TUF{
		Name: r.Name, From: parcel.Versions{Root: to.First}, To: to.Versions, Roles: to.Roles, Files: to.digests(),
		Observed: parcel.Time{Time: to.Observed.UTC().Truncate(time.Second)},
	}
	if sent != nil {
		step.From = sent.Versions
	}
	return step, ""
}

// packTUF adds the files of a repository, verified once more on their way.
func (e *Exporter) packTUF(w *parcel.Writer, i int, step parcel.TUF, to TUFHead) error {
	for _, n := range step.Names(i) {
		b, err := e.tufFile(n.TUF, step, to)
		if err != nil {
			return fmt.Errorf("packing TUF repository %q: %w", step.Name, err)
		}
		if err := w.Add(n, b); err != nil {
			return err
		}
	}
	return nil
}

func (e *Exporter) tufFile(n parcel.TUFName, step parcel.TUF, to TUFHead) ([]byte, error) {
	v := to.Versions
	switch n.Kind {
	case parcel.TUFRoot:
		return to.readMeta(e.root, tufAsk{metadata.ROOT, n.N}.name())
	case parcel.TUFTimestamp:
		return to.readMeta(e.root, tufAsk{metadata.TIMESTAMP, v.Timestamp}.name())
	case parcel.TUFSnapshot:
		return to.readMeta(e.root, tufAsk{metadata.SNAPSHOT, v.Snapshot}.name())
	case parcel.TUFTargets:
		return to.readMeta(e.root, tufAsk{metadata.TARGETS, v.Targets}.name())
	case parcel.TUFRole:
		for _, f := range to.Files {
			if role, ok := roleOf(f.Name); ok && role == escape(step.Roles[n.N]) {
				return to.readMeta(e.root, f.Name)
			}
		}
		return nil, fmt.Errorf("%w: role %q", ErrDamaged, step.Roles[n.N])
	}
	digest := parcel.Digest(n.Digest[:])
	return readTUF(e.root, tufDir(to.Name), "targets/"+digest.String(), digest)
}

// tufExport is what an export carries of TUF repositories.
type tufExport struct {
	steps []TUFStep
	heads []TUFHead // of those in the manifest, in its order
	moved bool
}

// left is the error of an export that has nothing else to say: a repository that could not be taken.
func (x tufExport) left() error {
	var errs []error
	for _, s := range x.steps {
		if s.Left != "" {
			errs = append(errs, fmt.Errorf("TUF repository %q: %w: %s; pull again", s.Name, freshness.ErrStale, s.Left))
		}
	}
	return errors.Join(errs...)
}

// tufSteps adds to a manifest the repositories that were collected. One whose metadata is not valid at the time the parcel is made
// stays where it is, and the report says so.
func (e *Exporter) tufSteps(ctx context.Context, m *parcel.Manifest) (x tufExport, err error) {
	collected, err := tufHeads(e.c.DB, keyTUFCollected)
	if err != nil {
		return x, err
	}
	sent, err := tufHeads(e.c.DB, keyTUFSent)
	if err != nil {
		return x, err
	}
	for _, name := range slices.Sorted(maps.Keys(e.tuf)) {
		to, ok := collected[name]
		if !ok {
			continue
		}
		var from *TUFHead
		if h, ok := sent[name]; ok {
			from = &h
		}
		step := newTUFStep(from, to, m.Created.Time)
		carried, why := e.tufStep(e.tuf[name], from, to, m.Created.Time)
		if why != "" {
			step.Left = why
			e.c.Logger.WarnContext(ctx, "a TUF repository is not carried", "repository", name, "reason", why)
		} else {
			m.TUF, x.heads = append(m.TUF, carried), append(x.heads, to)
			x.moved = x.moved || from == nil || from.Versions != to.Versions
		}
		x.steps = append(x.steps, step)
	}
	return x, nil
}

// notThere says why a log that is followed and was never collected is passed over: its server has no checkpoint of a tiled log by
// that name, as those of Rekor v1, or it has ended and its server with it.
func (e *Exporter) notThere(ctx context.Context, log *knownLog) string {
	if log.Followed == "" {
		return ""
	}
	src, err := OpenSource(log.Source, log.Layout, e.c.Network)
	if err != nil {
		return ""
	}
	note, err := src.Checkpoint(ctx)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "its server has no checkpoint of a tiled log"
	case err != nil && !log.NotAfter.IsZero() && e.c.Now().After(log.NotAfter):
		return "it ended at " + log.NotAfter.UTC().Format(time.RFC3339) + " and does not answer"
	case err != nil:
		return ""
	}
	if first, _, _ := bytes.Cut(note, []byte("\n")); string(first) != log.Origin {
		return fmt.Sprintf("its server shows a checkpoint of %.100q", first)
	}
	return ""
}
