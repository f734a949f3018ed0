package mirror

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"redoubt.internal/ca/approval"
	"redoubt.internal/log/store"
	"redoubt.internal/mirror/parcel"
)

// What waits in quarantine is taken in by itself once a trusted root or the configuration explains the log. What does not prove then
// is not tried again by itself, and a log that nothing explains waits for ever: of either, people may decide. Their word names the
// key of a log that is not known; it never stands for a proof. Every file goes through the import's own code.

// vouched is a log that people took the key of on their own word.
type vouched struct {
	Origin string    `json:"origin"`
	VKey   string    `json:"vkey"`
	Scope  string    `json:"scope"`
	By     []string  `json:"approved_by"`
	Since  time.Time `json:"since"`
}

const keyVouched = "mirror/vouched/"

// relearnVouched learns the logs that people vouched for.
func (m *Mirror) relearnVouched() error {
	var logs []LogConfig
	err := m.c.DB.View(func(tx store.Tx) error {
		logs = logs[:0]
		return scan(tx, keyVouched, func(_ string, v vouched) error {
			logs = append(logs, LogConfig{Origin: v.Origin, VKey: v.VKey, Scope: v.Scope})
			return nil
		})
	})
	if err != nil {
		return err
	}
	known, err := knownLogs(logs)
	if err == nil {
		m.vouched.Store(&known)
	}
	return err
}

// QuarantineFiles are the files that wait of one parcel of a log.
type QuarantineFiles struct {
	Quarantined
	Files  int    `json:"files"`
	SHA256 string `json:"sha256"` // over "<sha256>  <name>\n" of every file, by name
}

// QuarantineOf lists what waits of a log, with the digest of its files. ErrNotFound when nothing does.
func (m *Mirror) QuarantineOf(ctx context.Context, origin string) ([]QuarantineFiles, error) {
	all, err := m.Quarantine()
	if err != nil {
		return nil, err
	}
	var out []QuarantineFiles
	for _, q := range all {
		if q.Origin != origin {
			continue
		}
		f := QuarantineFiles{Quarantined: q}
		if err := m.digestFolder(ctx, quarantineDir(q.Origin, q.Sequence), &f); err != nil {
			return nil, fmt.Errorf("reading what waits of parcel %d of %q: %w", q.Sequence, origin, err)
		}
		out = append(out, f)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%w: nothing of %q waits in quarantine", ErrNotFound, origin)
	}
	return out, nil
}

func (m *Mirror) digestFolder(ctx context.Context, dir string, out *QuarantineFiles) error {
	list := sha256.New()
	err := fs.WalkDir(m.root.FS(), dir, func(name string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil || d.IsDir() {
			return err
		}
		h := sha256.New()
		if err := copyInto(h, m.root.FS(), name); err != nil {
			return err
		}
		out.Files++
		fmt.Fprintf(list, "%x  %s\n", h.Sum(nil), strings.TrimPrefix(name, dir+"/"))
		return nil
	})
	out.SHA256 = fmt.Sprintf("%x", list.Sum(nil))
	return err
}

func copyInto(h hash.Hash, fsys fs.FS, name string) error {
	f, err := fsys.Open(name)
	if err != nil {
		return err
	}
	_, err = io.Copy(h, f)
	return errors.Join(err, f.Close())
}

// ReleaseText is what people agree to when they release a log from quarantine. vkey is the log's key as they know it; empty where
// the log is known here.
func (m *Mirror) ReleaseText(ctx context.Context, origin, vkey string) ([]string, error) {
	known := m.log(origin)
	switch {
	case known == nil && vkey == "":
		return nil, fmt.Errorf("%w: %q, and no key was given for it", ErrUnknownOrigin, origin)
	case known != nil && vkey != "" && vkey != known.key.VKey():
		return nil, fmt.Errorf("%w: %q is known here by %s; another key belongs into the configuration or the trusted root", ErrConfig, origin, known.key.ID())
	case known != nil:
		vkey = known.key.VKey()
	}
	waiting, err := m.QuarantineOf(ctx, origin)
	if err != nil {
		return nil, err
	}
	lines := []string{"origin " + approval.Value(origin), "key " + approval.Value(vkey)}
	if known == nil {
		lines = append(lines, "from now on this log is believed by this key, on the word of those who approve")
	}
	for _, q := range waiting {
		to := fmt.Sprintf("%d %s", q.Log.To.Size, q.Log.To.Root)
		lines = append(lines, fmt.Sprintf("parcel %d %s from %d to %s scope %s", q.Sequence, q.Parcel, q.Log.From.Size, to, q.Log.Scope))
		lines = append(lines, fmt.Sprintf("files of parcel %d: %d, %d bytes, sha256:%s", q.Sequence, q.Files, q.Bytes, q.SHA256))
		lines = append(lines, fmt.Sprintf("reason of parcel %d: %s", q.Sequence, approval.Value(brief(q.Reason))))
		if q.Failed != "" {
			lines = append(lines, fmt.Sprintf("parcel %d failed: %s", q.Sequence, approval.Value(brief(q.Failed))))
		}
		lines = append(lines, fmt.Sprintf("parcel %d waits since %s", q.Sequence, q.Since.UTC().Format(time.RFC3339Nano)))
	}
	return lines, nil
}

func brief(s string) string { return strings.ToValidUTF8(s[:min(len(s), 300)], "?") }

// ReleaseAgreed does what people agreed to: it believes the log by the key they named, if it was not known, and takes in what waits,
// as far as it proves. agreed is the text they approved; if it is not what ReleaseText says now nothing is done. with runs in the
// transaction before the first file is taken.
func (m *Mirror) ReleaseAgreed(ctx context.Context, origin, vkey string, agreed, by []string, with func(store.Tx) error) ([]TransferStep, error) {
	unlock, err := lockDir(m.root)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := m.finishPublish(ctx); err != nil {
		return nil, full(err)
	}
	now, err := m.ReleaseText(ctx, origin, vkey)
	if err != nil {
		return nil, err
	}
	if !slices.Equal(now, agreed) {
		return nil, fmt.Errorf("%w: what was agreed on is not what waits of %q now", ErrChanged, origin)
	}
	e := Event{Action: "mirror.release", Object: origin, Outcome: "intent", Detail: map[string]string{"by": strings.Join(by, " "), "key": vkey}}
	keep := with
	if m.log(origin) == nil {
		if keep, err = m.vouch(origin, vkey, by, with); err != nil {
			return nil, err
		}
	}
	if err := m.record(ctx, e, keep); err != nil {
		return nil, err
	}
	if err := m.relearnVouched(); err != nil {
		return nil, err
	}
	return m.release(ctx, origin)
}

// vouch makes the transaction that takes a key on people's word. The first checkpoint that waits has to be signed by it.
func (m *Mirror) vouch(origin, vkey string, by []string, with func(store.Tx) error) (func(store.Tx) error, error) {
	all, err := m.Quarantine()
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(all, func(q Quarantined) bool { return q.Origin == origin })
	v := vouched{Origin: origin, VKey: vkey, Scope: all[i].Log.Scope, By: by, Since: m.c.Now().UTC()}
	known, err := knownLogs([]LogConfig{{Origin: origin, VKey: vkey, Scope: v.Scope}})
	if err != nil {
		return nil, err
	}
	sh, err := openShelf(m.root, quarantineDir(origin, all[i].Sequence))
	if err != nil {
		return nil, err
	}
	defer sh.close()
	note, err := sh.readNamed(bareName(parcel.Name{Checkpoint: true}), parcel.MaxCheckpoint)
	if err != nil {
		return nil, err
	}
	if _, err := known[origin].open(bytes.Clone(note)); err != nil {
		return nil, err
	}
	return func(tx store.Tx) error { return errors.Join(put(tx, keyVouched+origin, v), with(tx)) }, nil
}
