package main

import (
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"redoubt.internal/log"
	"redoubt.internal/mirror"
	"redoubt.internal/mirror/generate"
	"redoubt.internal/mirror/parcel"
	"redoubt.internal/mirror/tiles"
)

func fileDigest(path string) (string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:]), nil
}

// outsideSigns signs the files outside-FROM to outside-TO, which grow the outside's log.
func (d *demo) outsideSigns(from, to int) error {
	for i := from; i <= to; i++ {
		file := d.path(fmt.Sprintf("outside-%d.txt", i))
		if err := os.WriteFile(file, fmt.Appendf(nil, "release %d of a project outside\n", i), 0o644); err != nil {
			return err
		}
		if _, err := d.sign(d.outside, "release@"+d.outside.domain, file); err != nil {
			return err
		}
	}
	return nil
}

// pack pulls the outside's log and exports a parcel onto the medium called name.
func (d *demo) pack(name string) (p mirror.Packed, err error) {
	medium := d.path(name)
	if err := os.Mkdir(medium, 0o755); err != nil {
		return p, err
	}
	if _, err := d.redoubt(0, "mirror", "pull", "--dir", d.outside.dir); err != nil {
		return p, err
	}
	return p, d.redoubtJSON(&p, "mirror", "export", "--dir", d.outside.dir, "--out", medium)
}

func (d *demo) volume(medium string, p mirror.Packed) string { return d.path(medium, p.Files[0]) }

// carry imports a medium and says what was proven.
func (d *demo) carry(medium string) (string, error) {
	var r mirror.Report
	if err := d.redoubtJSON(&r, "mirror", "import", d.path(medium), "--dir", d.inside.dir); err != nil {
		return "", err
	}
	var lines []string
	for _, t := range r.Transfers {
		for _, l := range t.Logs {
			lines = append(lines, fmt.Sprintf("parcel %d: %s from %d to %d entries; checkpoint signed by its log, consistent, root %.16s… recomputed from the leaves", t.Sequence, l.Origin, l.From, l.To, l.Root))
		}
	}
	return strings.Join(lines, "\n"), nil
}

func (d *demo) gapSteps() []step {
	var first mirror.Packed
	return []step{
		{"outside, three releases are signed; the log is pulled and packed", func() (_ string, err error) {
			if err := d.outsideSigns(1, 3); err != nil {
				return "", err
			}
			first, err = d.pack("medium-1")
			return fmt.Sprintf("parcel %d of %s, %d bytes, digest %s", first.Sequence, first.Stream, first.Bytes, first.Digest), err
		}},
		{"the parcel is carried in and proven again", func() (string, error) { return d.carry("medium-1") }},
		{"two more releases, a second parcel", func() (string, error) {
			if err := d.outsideSigns(4, 5); err != nil {
				return "", err
			}
			if _, err := d.pack("medium-2"); err != nil {
				return "", err
			}
			return d.carry("medium-2")
		}},
		{"an old parcel and a flipped bit are refused", func() (string, error) {
			replay, err := d.redoubt(21, "mirror", "import", d.path("medium-1"), "--dir", d.inside.dir)
			if err != nil {
				return "", err
			}
			if err := d.outsideSigns(6, 6); err != nil {
				return "", err
			}
			lost, err := d.pack("medium-3")
			if err != nil {
				return "", err
			}
			flipped := d.path("flipped")
			if err := os.Mkdir(flipped, 0o755); err != nil {
				return "", err
			}
			data, err := os.ReadFile(d.volume("medium-3", lost))
			if err != nil {
				return "", err
			}
			data[len(data)-20] ^= 1
			if err := os.WriteFile(filepath.Join(flipped, lost.Files[0]), data, 0o644); err != nil {
				return "", err
			}
			flip, err := d.redoubt(40, "mirror", "import", flipped, "--dir", d.inside.dir)
			return "exit 21: " + replay + "\nexit 40: " + flip, err
		}},
		{"reconcile: all that was carried is hashed anew", func() (string, error) {
			var r reconcileResult
			if err := d.redoubtJSON(&r, "mirror", "reconcile", "--dir", d.inside.dir); err != nil {
				return "", err
			}
			report, err := mirror.OpenReport([]byte(r.Note), r.Key)
			if err != nil {
				return "", err
			}
			l := report.Logs[0]
			return fmt.Sprintf("%d leaves rehashed, %d accepted checkpoints reproduced, nothing missing; report signed by %.40s…", l.Leaves, l.Heads, r.Key), nil
		}},
	}
}

// trapSteps: parcels 3 and 4 are lost on the way, and the outside's log shows the inside another history.
func (d *demo) trapSteps() []step {
	return []step{
		{"parcels 3 and 4 are lost, parcel 5 is refused and names them", func() (string, error) {
			for i, medium := range []string{"medium-4", "medium-5"} {
				if err := d.outsideSigns(7+i, 7+i); err != nil {
					return "", err
				}
				if _, err := d.pack(medium); err != nil {
					return "", err
				}
			}
			said, err := d.redoubt(20, "mirror", "import", d.path("medium-5"), "--dir", d.inside.dir)
			return "exit 20: " + said, err
		}},
		{"the log's own key signs another history", func() (string, error) {
			if err := d.forgeParcel("medium-forked"); err != nil {
				return "", err
			}
			said, err := d.redoubt(30, "mirror", "import", d.path("medium-forked"), "--dir", d.inside.dir)
			return "exit 30: " + said, err
		}},
		{"reconcile: the signed report names the fork and the gap", func() (string, error) {
			said, err := d.redoubt(30, "mirror", "reconcile", "--dir", d.inside.dir)
			if err != nil {
				return "", err
			}
			return d.readTrapReport(said)
		}},
	}
}

// readTrapReport opens the newest report the inside keeps and demands that it names fork and gap and is signed.
func (d *demo) readTrapReport(said string) (string, error) {
	var key keyLine
	if err := d.redoubtJSON(&key, "mirror", "key", "--reports", "--dir", d.inside.dir); err != nil {
		return "", err
	}
	reports, err := filepath.Glob(filepath.Join(d.inside.dir, "mirror", "reports", "*.note"))
	if err != nil || len(reports) == 0 {
		return "", errors.Join(err, errors.New("no report was kept"))
	}
	note, err := os.ReadFile(slices.Max(reports))
	if err != nil {
		return "", err
	}
	report, err := mirror.OpenReport(note, key.Key)
	if err != nil {
		return "", err
	}
	// The parcel that forked is number 3: it is held, with its log frozen, and 4 is what is missing.
	if len(report.Missing) != 1 || report.Missing[0].First != 4 || report.Logs[0].Frozen == nil {
		return "", fmt.Errorf("the report names not both: missing %v, frozen %v", report.Missing, report.Logs[0].Frozen)
	}
	evidence := filepath.Join(d.inside.dir, "mirror", "in", report.Logs[0].Frozen.Evidence)
	if _, err := d.redoubt(0, "mirror", "evidence", evidence, "--key", filepath.Join(d.outside.setup, "rekor.pub"), "--origin", report.Logs[0].Origin); err != nil {
		return "", err
	}
	return fmt.Sprintf("exit 30: %s\nreport signed by %.40s…; the evidence proves the fork by the log's key alone", said, key.Key), nil
}

// forgeParcel makes what a dishonest operator of the outside's log could: a well-formed, well-signed parcel that extends
// another history by one entry, under a checkpoint signed by the log's own key. Only the inside's memory shows the lie.
func (d *demo) forgeParcel(medium string) error {
	var status mirror.Status
	if err := d.redoubtJSON(&status, "mirror", "status", "--dir", d.inside.dir); err != nil {
		return err
	}
	held := status.Logs[0]
	heldRoot, err := hex.DecodeString(held.Root)
	if err != nil {
		return err
	}
	cfg, err := loadConfig(layout{d.outside.dir}.config())
	if err != nil {
		return err
	}
	keys := newKeyring(cfg.Keys, layout{cfg.Dir}, slog.New(slog.DiscardHandler))
	defer keys.close()
	logKey, err := keys.role(d.ctx, roleRekor)
	if err != nil {
		return err
	}
	exporterKey, err := keys.role(d.ctx, roleExporter)
	if err != nil {
		return err
	}
	size := held.Size + 1
	root, err := d.forgeTree(d.path("forked-log"), held.Origin, size, logKey)
	if err != nil {
		return err
	}
	if err := os.Mkdir(d.path(medium), 0o755); err != nil {
		return err
	}
	w, err := parcel.NewWriter(d.path(medium), "forged", parcel.Manifest{
		Stream: status.Stream, Sequence: status.Sequence + 1, Previous: status.Digest, Created: parcel.Time{Time: time.Now().UTC().Truncate(time.Second)},
		Logs: []parcel.Log{{Origin: held.Origin, Scope: held.Scope,
			From: parcel.State{Size: held.Size, Root: heldRoot}, To: parcel.State{Size: size, Root: root}}},
	}, 0)
	if err != nil {
		return err
	}
	names := []parcel.Name{{Checkpoint: true}}
	for _, level := range []int{0, tiles.Entries} { // a log this small is one partial tile
		tile, _ := tiles.At(level, 0, size)
		names = append(names, parcel.Name{Tile: tile})
	}
	for _, name := range names {
		file := strings.TrimPrefix(name.String(), "logs/0/")
		data, err := os.ReadFile(d.path("forked-log", file))
		if err != nil {
			return err
		}
		if err := w.Add(name, data); err != nil {
			return err
		}
	}
	packed, err := w.Finish(cfg.exporterName(), exporterKey)
	if err != nil {
		return err
	}
	defer packed.Close()
	return packed.Publish()
}

// forgeTree writes a log of size other entries as C2SP tiles and signs its checkpoint; it returns the root.
func (d *demo) forgeTree(dir, origin string, size uint64, key crypto.Signer) ([]byte, error) {
	b, err := generate.NewBuilder(dir)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	for i := range size {
		if err := b.Add(fmt.Appendf(nil, "an entry of another history, %d", i)); err != nil {
			return nil, err
		}
	}
	root := b.Root()
	checkpoint, err := log.SignNote(origin, key, size, root)
	if err != nil {
		return nil, err
	}
	return root[:], b.Publish(checkpoint)
}

// stop ends a site's server as a service manager does and demands exit code 0.
func (d *demo) stop(s *site) error {
	if err := s.process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case err := <-s.exited:
		s.process = nil
		return err
	case <-time.After(30 * time.Second):
		return fmt.Errorf("the server of %s did not drain", s.name)
	}
}
