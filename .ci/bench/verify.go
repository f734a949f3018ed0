package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"redoubt.internal/mirror"
	"redoubt.internal/mirror/generate"
	"redoubt.internal/mirror/parcel"
)

const verifyLeaves = 256 * 1024

// benchVerify proves one tiled log on disk from its first leaf to its signed checkpoint, with one worker, ours in this
// process and the peer's in its own. The rates are leaves per CPU second, so that CPU us/op reads as CPU seconds per million.
func benchVerify(ctx context.Context, dir string) ([]*row, error) {
	if !wanted("verify") {
		return nil, nil
	}
	c, err := makeLog(filepath.Join(dir, "verify"))
	if err != nil {
		return nil, fmt.Errorf("making a log to prove: %w", err)
	}
	result1 := func(cpu time.Duration) result {
		return result{rate: verifyLeaves / cpu.Seconds(), cpu: float64(cpu.Microseconds()) / verifyLeaves}
	}
	ours := &side{cpu: selfCPU, run: func() (result, error) {
		cpu := selfCPU()
		v, err := mirror.VerifyLog(ctx, c, nil, 1)
		if err == nil && v.Leaves != verifyLeaves {
			err = fmt.Errorf("%d leaves proven", v.Leaves)
		}
		return result1(selfCPU() - cpu), err
	}}
	r := &row{name: "verify-import, leaves per CPU second", clients: 1, peer: "tessera v1.0.4 fsck -N 1, file://"}
	var theirs *side
	if path, err := program("tessera-fsck-v1.0.4"); err != nil {
		r.peer = err.Error()
	} else {
		key := filepath.Join(dir, "verify.vkey")
		if err := os.WriteFile(key, []byte(c.VKey+"\n"), 0o600); err != nil {
			return nil, err
		}
		var used time.Duration
		theirs = &side{cpu: func() time.Duration { return used }, own: selfCPU, run: func() (result, error) {
			var said bytes.Buffer
			cmd := exec.CommandContext(ctx, path, "-storage_url", "file://"+c.Source, "-public_key", key, "-ui=false", "-N", "1")
			cmd.Stdout, cmd.Stderr = &said, &said
			err := cmd.Run()
			if err == nil && bytes.Contains(said.Bytes(), []byte("fsck failed")) {
				err = fmt.Errorf("%.200s", said.String())
			}
			cpu := time.Duration(0)
			if s := cmd.ProcessState; s != nil {
				cpu = s.UserTime() + s.SystemTime()
			}
			used += cpu
			return result1(cpu), err
		}}
	}
	return []*row{r}, turns(r, *rounds, *step, ours, theirs)
}

// makeLog writes a tiled log of entries of 1 KiB.
func makeLog(dir string) (mirror.LogConfig, error) {
	const origin = "verify.example.test"
	c := mirror.LogConfig{Origin: origin, Source: dir}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return c, err
	}
	if c.VKey, err = parcel.VerifierKey(origin, key.Public()); err != nil {
		return c, err
	}
	b, err := generate.NewBuilder(dir)
	if err != nil {
		return c, err
	}
	defer b.Close()
	leaf := make([]byte, leafSize)
	for i := range uint64(verifyLeaves) {
		binary.BigEndian.PutUint64(leaf, i)
		if err := b.Add(leaf); err != nil {
			return c, err
		}
	}
	note, err := parcel.SignNote(generate.CheckpointText(origin, verifyLeaves, b.Root()), origin, key)
	if err != nil {
		return c, err
	}
	return c, b.Publish(note)
}
