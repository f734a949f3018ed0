package admission

import (
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"redoubt.internal/log/store"
	"redoubt.internal/log/store/bolt"
	"redoubt.internal/mirror"
	"redoubt.internal/mirror/parcel"
	"redoubt.internal/mirror/tiles"
)

// mirrored is a mirror to which the log of the lab's deployment was carried as it is now.
func mirrored(t *testing.T, l *lab) *mirror.Mirror {
	t.Helper()
	origin := "rekor." + l.own.Domain
	entry := l.own.Entry([]byte(`{"kind":"hashedrekord","apiVersion":"0.0.2"}`), time.Time{}, false)
	note := entry["inclusionProof"].(map[string]any)["checkpoint"].(map[string]any)["envelope"].(string)
	var bundle, hashes []byte
	for _, leaf := range l.own.Leaves {
		bundle = append(binary.BigEndian.AppendUint16(bundle, uint16(len(leaf))), leaf...)
		h := tiles.LeafHash(leaf)
		hashes = append(hashes, h[:]...)
	}
	n := uint64(len(l.own.Leaves))
	source := filepath.Join(l.dir, "source")
	for name, content := range map[string][]byte{"checkpoint": []byte(note), tiles.Tile{Level: tiles.Entries, Width: int(n)}.Path(): bundle, tiles.Tile{Width: int(n)}.Path(): hashes} {
		file := filepath.Join(source, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	logKey, err := parcel.VerifierKey(origin, &l.own.LogKey.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	exporter, err := parcel.VerifierKey("outside", key.Public())
	if err != nil {
		t.Fatal(err)
	}
	logs := []mirror.LogConfig{{Origin: origin, VKey: logKey, Source: source}}
	out, err := mirror.OpenExporter(mirror.ExporterConfig{DB: database(t, l.dir, "out.db"), Dir: filepath.Join(l.dir, "out"), Stream: "s", Name: "outside", Signer: key, Logs: logs, Now: l.now})
	if err != nil {
		t.Fatal(err)
	}
	in, err := mirror.Open(mirror.Config{DB: database(t, l.dir, "in.db"), Dir: filepath.Join(l.dir, "in"), Stream: "s", Exporters: []string{exporter}, Logs: logs, Now: l.now, Signer: key, Name: "inside"})
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	if _, err := out.Pull(ctx); err != nil {
		t.Fatal(err)
	}
	medium := filepath.Join(l.dir, "medium")
	if err := os.Mkdir(medium, 0o755); err != nil {
		t.Fatal(err)
	}
	packed, err := out.Export(ctx, mirror.ExportOptions{Out: medium})
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	for _, f := range packed.Files {
		files = append(files, filepath.Join(medium, f))
	}
	if _, err := in.Import(ctx, files); err != nil {
		t.Fatal(err)
	}
	return in
}

func database(t *testing.T, dir, name string) store.DB {
	t.Helper()
	db, err := bolt.Create(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// TestForkedLog: a log that shows the gate's signers another history than the mirror gives itself away: the gate leaves the proof to the
// mirror, which freezes the log with evidence. An honest proof freezes nothing.
func TestForkedLog(t *testing.T) {
	l := newLab(t, nil)
	ctx := context.Background()
	in := mirrored(t, l)
	forked := *l.own
	forked.Leaves = append([][]byte{[]byte(`{"another":"first entry"}`)}, l.own.Leaves[1:]...)

	l.allowed(l.create(MutatePath, "apps", l.host+"/app/web@"+l.signed("app/web", "honest")))
	if r, err := in.ObserveSpool(ctx, l.gate.c.Spool); err != nil || r.Taken != 1 || r.Refused != 0 {
		t.Fatalf("an honest proof: %+v, %v", r, err)
	}
	manifest := l.push("app/web", "forked")
	l.attach("app/web", manifest, forked.SignMessage(2, string(manifest)).Bundle(t))
	l.allowed(l.create(MutatePath, "apps", l.host+"/app/web:forked")) // by itself nothing is wrong with it
	r, err := in.ObserveSpool(ctx, l.gate.c.Spool)
	var fork *mirror.ForkError
	if !errors.As(err, &fork) || r.Taken != 1 {
		t.Fatalf("a forked proof: %+v, %v", r, err)
	}
	status, err := in.Status(ctx)
	if err != nil || status.Logs[0].Frozen == nil {
		t.Fatalf("the log is not frozen: %+v, %v", status, err)
	}
	if _, err := os.Stat(fork.Evidence); err != nil {
		t.Errorf("evidence: %v", err)
	}
	// Once the gate is told what the mirror knows, nothing that the log says since is admitted.
	known, err := in.Freshness(ctx)
	if err != nil {
		t.Fatal(err)
	}
	rules, err := loadRules(filepath.Join(l.dir, "policy.yaml"), known, l.now)
	if err != nil {
		t.Fatal(err)
	}
	l.gate.Use(rules)
	l.refused(l.create(MutatePath, "apps", l.host+"/app/web:forked"), "two histories") // though it has a receipt: this is no matter of age
}
