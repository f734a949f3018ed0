package log

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"redoubt.internal/log/store"
	"redoubt.internal/log/store/bolt"
)

// A disk that fills up at many different bytes: the Add that meets it gets store.ErrFull and is not acknowledged, reads
// go on, everything acknowledged stays, and with room again the log goes on without a repair.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	// The database begins with a journal on the larger disk, on the smaller one it never gets one.
	for _, size := range []string{"2560k", "1536k"} {
		t.Run(size, func(t *testing.T) { diskFull(t, size) })
	}
}

func diskFull(t *testing.T, size string) {
	dir := t.TempDir()
	cmd := exec.Command("unshare", "-rm", "sh", "-c", `mount -t tmpfs -o size="$3" tmpfs "$1" && exec "$2"`, "sh", dir, os.Args[0], size)
	cmd.Env = append(os.Environ(), "LOG_TEST_FULL="+dir)
	out, err := cmd.CombinedOutput()
	if bytes.Contains(out, []byte("unshare:")) || bytes.Contains(out, []byte("mount:")) || errors.Is(err, exec.ErrNotFound) {
		t.Skipf("NOT TESTED: this machine lets no test mount a small disk of its own: %v %s", err, out)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", bytes.TrimSpace(out))
}

// fullDisk runs in a mount namespace of its own, with dir a tmpfs of some MiB.
func fullDisk(dir string) error {
	ctx := context.Background()
	points, acked := 0, 0
	for ; points < 100; points++ {
		sub := filepath.Join(dir, fmt.Sprint(points))
		if err := os.Mkdir(sub, 0o700); err != nil {
			return err
		}
		// Filler moves the point at which the disk is full by a page each time.
		if err := os.WriteFile(filepath.Join(sub, "filler"), make([]byte, 500<<10+points*4096), 0o600); err != nil {
			return err
		}
		n, err := fillOnce(ctx, sub)
		if err != nil {
			return fmt.Errorf("fill point %d: %w", points, err)
		}
		acked += n
		if err := os.RemoveAll(sub); err != nil {
			return err
		}
	}
	fmt.Printf("%d fill points, %d acknowledged entries, 0 lost\n", points, acked)
	return nil
}

func fillOnce(ctx context.Context, dir string) (int, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return 0, err
	}
	db, err := bolt.Create(filepath.Join(dir, "log.db"))
	if err != nil {
		return 0, err
	}
	hw, err := OpenHighWaterFile(filepath.Join(dir, "hw"))
	if err != nil {
		return 0, err
	}
	defer hw.Close()
	c := Config{DB: db, Origin: "full.example.test", Signer: key, HighWater: []HighWater{hw.For("full.example.test")}}
	if err := Create(ctx, c); err != nil {
		return 0, err
	}
	l, err := Open(ctx, c)
	if err != nil {
		return 0, err
	}
	run, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan error, 1)
	go func() { done <- l.Run(run) }()
	leaf := func(i int) []byte { return bytes.Repeat([]byte{byte(i)}, 7000+i) }
	acked := map[uint64]int{}
	full := 0
	for i := 0; full < 3; i++ {
		rc, err := l.Add(ctx, leaf(i), nil, nil)
		switch {
		case err == nil:
			acked[rc.Index] = i
		case errors.Is(err, store.ErrFull):
			full++
		default:
			return 0, err
		}
		if i > 1000 {
			return 0, errors.New("the disk never fills")
		}
	}
	check := func(l *Log) error {
		for index, i := range acked {
			if e, err := l.Entry(ctx, index); err != nil || !bytes.Equal(e.Leaf, leaf(i)) {
				return fmt.Errorf("acknowledged entry %d: %w", index, err)
			}
		}
		return l.Err()
	}
	if err := check(l); err != nil {
		return 0, err
	}
	if err := os.Remove(filepath.Join(dir, "filler")); err != nil {
		return 0, err
	}
	if _, err := l.Add(ctx, []byte("room again"), nil, nil); err != nil {
		return 0, fmt.Errorf("with room again: %w", err)
	}
	stop()
	<-done
	if err := db.Close(); err != nil {
		return 0, err
	}
	if c.DB, err = bolt.Open(filepath.Join(dir, "log.db")); err != nil {
		return 0, err
	}
	defer c.DB.Close()
	if l, err = Open(ctx, c); err != nil {
		return 0, err
	}
	if err := check(l); err != nil {
		return 0, err
	}
	_, err = Fsck(ctx, c, nil)
	return len(acked), err
}
