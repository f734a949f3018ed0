package mirror

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"redoubt.internal/log/store"
	"redoubt.internal/mirror/images"
	"redoubt.internal/mirror/parcel"
	"redoubt.internal/mirror/tiles"
)

// ExporterConfig says what an Exporter collects and how it signs.
type ExporterConfig struct {
	// DB holds the exporter's state under the prefix "exporter/".
	DB store.DB
	// Dir is the exporter's own folder: the collection of tiles. It is made if it is not there.
	Dir string
	// Stream names the stream of parcels. One exporter feeds it.
	Stream string
	// Name and Signer are the exporter's key: Ed25519 or ECDSA P-256. Pull needs neither.
	Name   string
	Signer crypto.Signer
	// Logs are the logs to collect, each with its Source.
	Logs []LogConfig
	// TUF are the TUF repositories to collect, each with its Source.
	TUF []TUFConfig
	// Images are looked up for what vouches for them.
	Images []ImageConfig
	// Follow has the logs collected that the trusted roots of repositories name.
	Follow []Follow
	// Floors are the smallest sizes at which logs may begin here, by origin, in place of ShippedSizes.
	Floors map[string]uint64
	// Network reaches http and https sources; nil means one with the defaults of Access.
	Network *Network
	// Receivers are the verifier keys of the insides whose receipts are believed (see ReadReceipt).
	Receivers []string
	// WarnUnacknowledged is how many parcels may wait for a receipt before each export warns; 0 never does.
	WarnUnacknowledged uint64
	// Progress is called as a transfer goes on, from one goroutine at a time. It must not block.
	Progress func(Progress)
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Logger takes messages for the operator; nil drops them.
	Logger *slog.Logger
}

// Exporter is the outside end of a stream.
type Exporter struct {
	c    ExporterConfig
	logs map[string]*knownLog // configured, and named by trusted roots that were collected
	tuf  map[string]*tufRepo
	root *os.Root

	named     map[string]*namedEntries // by origin: what images name of a log, while it is pulled
	waiting   []LogConfig              // logs whose key no collected trusted root names yet
	receivers []*parcel.Verifier
}

// Keys of the exporter's state, each with a JSON value.
//
//	exporter/head/<origin>     Head          the last head collected and verified
//	exporter/sent/<origin>     Head          the head the last parcel ends at
//	exporter/stream            streamState   the last parcel exported
//	exporter/packed/<sequence> packedState   how to name and make each parcel again
//	exporter/frozen/<origin>   Freeze        the log showed two histories
const (
	keyCollected = "exporter/head/"
	keySent      = "exporter/sent/"
	keyExported  = "exporter/stream"
	keyPacked    = "exporter/packed/"
	keyStopped   = "exporter/frozen/"
)

type packedState struct {
	Sequence uint64        `json:"sequence"`
	Digest   parcel.Digest `json:"digest"`
	Created  time.Time     `json:"created"`
	Dir      string        `json:"dir"`
	Files    []string      `json:"files"`
	Note     []byte        `json:"note"` // the signed manifest
	// What ExportAgain needs beside the collection.
	Name       string    `json:"name,omitempty"`
	VolumeSize int64     `json:"volume_size,omitempty"`
	Exporter   string    `json:"exporter,omitempty"` // id of the key that signed
	Heads      []Head    `json:"heads,omitempty"`    // the heads packed, in the manifest's order
	TUF        []TUFHead `json:"tuf,omitempty"`      // and the TUF repositories
	Named      bool      `json:"named,omitempty"`    // the volumes were seen under their names
}

// OpenExporter opens the exporter in c.Dir. It starts nothing and fetches nothing.
func OpenExporter(c ExporterConfig) (*Exporter, error) {
	if !parcel.IsStream(c.Stream) {
		return nil, fmt.Errorf("%w: stream %.80q; 1 to 64 of a-z, 0-9, dot and hyphen are allowed", ErrConfig, c.Stream)
	}
	if c.DB == nil || c.Dir == "" {
		return nil, fmt.Errorf("%w: no database or no folder", ErrConfig)
	}
	e := &Exporter{c: c}
	var err error
	if _, err = knownLogs(c.Logs); err != nil {
		return nil, err
	}
	if e.tuf, err = knownTUF(c.TUF); err != nil {
		return nil, err
	}
	if err := checkTrust(e.tuf, c.Logs, c.Follow); err != nil {
		return nil, err
	}
	if e.receivers, err = verifiers(c.Receivers, "receiver"); err != nil {
		return nil, err
	}
	setDefaults(&e.c.Now, &e.c.Logger)
	if e.root, err = openDir(c.Dir); err != nil {
		return nil, err
	}
	if err := e.refreshLogs(); err != nil {
		e.root.Close()
		return nil, err
	}
	return e, nil
}

// Close closes the exporter's folder, not the database.
func (e *Exporter) Close() error { return e.root.Close() }

func (e *Exporter) progress(p Progress) {
	if e.c.Progress != nil {
		e.c.Progress(p)
	}
}

// path is where a file of the exporter's folder lies for whoever reads a message.
func (e *Exporter) path(name string) string { return filepath.Join(e.c.Dir, filepath.FromSlash(name)) }

func (e *Exporter) shelf(origin string) (*shelf, error) { return openShelf(e.root, logDir(origin)) }

// exporterState is what an export is judged by, read in one transaction.
type exporterState struct {
	stream    streamState
	collected map[string]Head
	sent      map[string]Head
	frozen    map[string]Freeze
	packed    packedState // of the last parcel
}

func (e *Exporter) state() (*exporterState, error) {
	s := &exporterState{collected: make(map[string]Head), sent: make(map[string]Head), frozen: make(map[string]Freeze)}
	err := e.c.DB.View(func(tx store.Tx) error {
		if _, err := get(tx, keyExported, &s.stream); err != nil {
			return err
		}
		if _, err := get(tx, packedKey(s.stream.Sequence), &s.packed); err != nil {
			return err
		}
		return errors.Join(
			scan(tx, keyCollected, func(_ string, h Head) error { s.collected[h.Origin] = h; return nil }),
			scan(tx, keySent, func(_ string, h Head) error { s.sent[h.Origin] = h; return nil }),
			scan(tx, keyStopped, func(_ string, f Freeze) error { s.frozen[f.Origin] = f; return nil }))
	})
	return s, err
}

func packedKey(sequence uint64) string { return fmt.Sprintf("%s%020d", keyPacked, sequence) }

func (s *exporterState) head(m map[string]Head, origin string) Head {
	if h, ok := m[origin]; ok {
		return h
	}
	return Head{Origin: origin, Root: tiles.EmptyRoot()}
}

// Packed says what an export made. Its JSON form is stable.
type Packed struct {
	Stream   string         `json:"stream"`
	Sequence uint64         `json:"sequence"`
	Digest   parcel.Digest  `json:"digest"`
	Files    []string       `json:"files"` // names in the folder exported to
	Bytes    int64          `json:"bytes"`
	Logs     []TransferStep `json:"logs"`
	TUF      []TUFStep      `json:"tuf,omitempty"`
	Images   int            `json:"images,omitempty"` // of which something is carried
	Blobs    int            `json:"blobs,omitempty"`  // files of theirs

	Again          []Again `json:"again,omitempty"` // parcels made once more because no receipt acknowledged them
	Unacknowledged uint64  `json:"unacknowledged"`  // parcels that not every receiver acknowledged, this one among them
}

// ExportOptions are the inputs of an export beside the collection.
type ExportOptions struct {
	// Out is the folder the volumes are written to; it exists.
	Out string
	// Name is the first part of the volumes' names; empty means <stream>-<sequence>.
	Name string
	// VolumeSize is the largest size of a volume in bytes; 0 makes one volume.
	VolumeSize int64
	// Created is the time written into the manifest; zero means now.
	Created time.Time
	// Refresh packs a parcel though no log grew, so that the inside learns that the logs stand where they stood.
	Refresh bool
	// Announce are verifier keys that may sign from the next parcel on, Retire the ids (NAME+HASH) of those that may not. A parcel
	// that says so is packed though no log grew.
	Announce, Retire []string
}

// Export packs what was collected since the last parcel. ErrNothing when nothing was. Every file is verified once more on
// its way from the collection, so that a damaged collection is named here and not inside.
//
// The parcel is complete and durable under hidden names before the state advances, and named after; a crash between the two
// is made good by the next call.
func (e *Exporter) Export(ctx context.Context, o ExportOptions) (Packed, error) {
	out := Packed{Stream: e.c.Stream}
	unlock, err := lockDir(e.root)
	if err != nil {
		return out, err
	}
	defer unlock()
	if e.c.Signer == nil || e.c.Name == "" {
		return out, fmt.Errorf("%w: no exporter key", ErrConfig)
	}
	s, err := e.state()
	if err != nil {
		return out, err
	}
	if len(s.packed.Files) > 0 {
		if err := e.finishNaming(ctx, s.packed); err != nil {
			return out, fmt.Errorf("naming the volumes of parcel %d: %w", s.packed.Sequence, err)
		}
	}
	if o.Created.IsZero() {
		o.Created = e.c.Now()
	}
	m := parcel.Manifest{
		Stream: e.c.Stream, Sequence: s.stream.Sequence + 1, Previous: s.stream.Digest, Created: parcel.Time{Time: o.Created.UTC().Truncate(time.Second)},
	}
	var kerr error
	if m.Announce, m.Retire, kerr = e.keyChanges(o); kerr != nil {
		return out, kerr
	}
	grew := len(m.Announce)+len(m.Retire) > 0
	for _, origin := range sortedKeys(e.logs) {
		log, to, from := e.logs[origin], s.head(s.collected, origin), s.head(s.sent, origin)
		_, frozen := s.frozen[origin]
		if to.Note == nil || frozen || to.Scope != log.Scope {
			continue
		}
		records, err := e.picked(origin, 0)
		if err != nil {
			return out, err
		}
		records = records[:min(len(records), parcel.MaxRecords)] // the rest leaves with the next parcel
		grew = grew || from.Note == nil || from.Size != to.Size || len(records) > 0
		m.Logs = append(m.Logs, parcel.Log{
			Origin: origin, Scope: log.Scope, Extras: log.extras(), From: from.state(), To: to.state(), Records: records,
			Observed: parcel.Time{Time: to.Observed.UTC().Truncate(time.Second)},
		})
	}
	tuf, err := e.tufSteps(ctx, &m)
	if err != nil {
		return out, err
	}
	out.TUF, grew = tuf.steps, grew || tuf.moved
	carried, err := e.blobSteps(&m)
	if err != nil {
		return out, err
	}
	grew = grew || len(m.Blobs) > 0
	if len(m.Logs)+len(m.TUF)+len(m.Blobs) == 0 || !grew && !o.Refresh {
		if err := tuf.left(); err != nil {
			return out, err
		}
		return out, fmt.Errorf("%w: nothing was collected since parcel %d", ErrNothing, s.stream.Sequence)
	}
	if o.Name == "" {
		o.Name = fmt.Sprintf("%s-%06d", e.c.Stream, m.Sequence)
	}
	return e.pack(ctx, s, m, o, tuf, carried)
}

func (e *Exporter) pack(ctx context.Context, s *exporterState, m parcel.Manifest, o ExportOptions, tuf tufExport, carried []images.Image) (out Packed, err error) {
	out.TUF = tuf.steps
	w, err := parcel.NewWriter(o.Out, o.Name, m, o.VolumeSize)
	if err != nil {
		return out, err
	}
	for i, t := range m.TUF {
		if err := e.packTUF(w, i, t, tuf.heads[i]); err != nil {
			w.Abandon()
			return out, full(err)
		}
	}
	for i, l := range m.Logs {
		step, err := e.packLog(ctx, w, i, l, e.logs[l.Origin], s.head(s.sent, l.Origin), s.collected[l.Origin])
		if err != nil {
			w.Abandon()
			return out, full(fmt.Errorf("packing %q: %w", l.Origin, err))
		}
		out.Logs = append(out.Logs, step)
	}
	if err := e.packBlobs(w, m.Blobs); err != nil {
		w.Abandon()
		return out, full(err)
	}
	p, err := w.Finish(e.c.Name, e.c.Signer)
	if err != nil {
		w.Abandon()
		return out, full(err)
	}
	defer p.Close()
	state := packedState{
		Sequence: m.Sequence, Digest: p.Digest, Created: m.Created.Time, Dir: o.Out, Files: p.Files, Note: p.Note,
		Name: o.Name, VolumeSize: o.VolumeSize, Exporter: p.Manifest.Exporter, TUF: tuf.heads,
	}
	for _, l := range m.Logs {
		state.Heads = append(state.Heads, s.collected[l.Origin])
	}
	err = e.c.DB.Update(func(tx store.Tx) error {
		if err := put(tx, keyExported, streamState{Sequence: m.Sequence, Digest: p.Digest, Floor: e.c.Now().UTC()}); err != nil {
			return err
		}
		if err := put(tx, packedKey(m.Sequence), state); err != nil {
			return err
		}
		for _, h := range tuf.heads {
			if err := put(tx, keyTUFSent+h.Name, h); err != nil {
				return err
			}
		}
		if err := blobsSent(tx, &m, carried); err != nil {
			return err
		}
		for _, l := range m.Logs {
			if err := put(tx, keySent+l.Origin, s.collected[l.Origin]); err != nil {
				return err
			}
			for _, r := range l.Records {
				if err := put(tx, recordKey(keyPicked, l.Origin, r), recordState{Index: r, Sequence: m.Sequence}); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return out, full(err)
	}
	out.add(p)
	out.Images, out.Blobs = len(carried), len(m.Blobs)
	if err := e.publish(p, state); err != nil {
		return out, err
	}
	out.Unacknowledged, err = e.warnWindow(ctx)
	return out, err
}

func (out *Packed) add(p *parcel.Packed) {
	out.Stream, out.Sequence, out.Digest, out.Files = p.Manifest.Stream, p.Manifest.Sequence, p.Digest, p.Files
	for _, v := range p.Manifest.Volumes {
		out.Bytes += v.Bytes
	}
}

func sortedKeys(m map[string]*knownLog) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
