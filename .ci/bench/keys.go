package main

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThalesGroup/crypto11"
	"github.com/miekg/pkcs11"

	"redoubt.internal/hsm"
	product "redoubt.internal/hsm/pkcs11"
	"redoubt.internal/hsm/worker"
)

const (
	benchPIN   = "1234567"
	benchLabel = "bench"
	sessions   = 8
)

// token is one SoftHSM token, opened by everybody who is measured.
type token struct {
	module, uri, pin string
	peer             *crypto11.Context
	peerErr          error
	inside           *hsm.Key // in this process
	outside          *hsm.Key // in a child
}

// openToken makes the token with one P-256 key.
func openToken(ctx context.Context, dir string) (*token, error) {
	t := &token{pin: filepath.Join(dir, "pin")}
	for _, m := range []string{"/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so"} {
		if _, err := os.Stat(m); err == nil {
			t.module = m
		}
	}
	if t.module == "" {
		return nil, errors.New("SoftHSM is not installed")
	}
	tokens, conf := filepath.Join(dir, "tokens"), filepath.Join(dir, "softhsm2.conf")
	err := errors.Join(os.Mkdir(tokens, 0o700), os.WriteFile(t.pin, []byte(benchPIN), 0o600),
		os.WriteFile(conf, fmt.Appendf(nil, "directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\n", tokens), 0o600), os.Setenv("SOFTHSM2_CONF", conf))
	if err != nil {
		return nil, err
	}
	if out, err := exec.CommandContext(ctx, "softhsm2-util", "--init-token", "--free", "--label", benchLabel, "--so-pin", "12345678", "--pin", benchPIN).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("softhsm2-util: %w: %s", err, out)
	}
	t.uri = "pkcs11:token=" + benchLabel + "?module-path=" + t.module
	// The peer first: it does not take a module that is initialized already.
	t.peer, t.peerErr = crypto11.Configure(&crypto11.Config{Path: t.module, TokenLabel: benchLabel, Pin: benchPIN, MaxSessions: sessions + 1})
	here, err := product.Open(product.Config{URI: t.uri, PINFile: t.pin, AllowedModules: []string{t.module}, Sessions: sessions})
	if err != nil {
		return nil, err
	}
	if t.inside, err = here.Generate(ctx, "pkcs11:object=k", hsm.ECDSAP256); err != nil {
		return nil, err
	}
	redoubt, err := program("redoubt")
	if err != nil {
		return nil, err
	}
	config, err := json.Marshal(object{"pkcs11": object{"uri": t.uri, "pinFile": t.pin, "allowedModules": []string{t.module}, "sessions": sessions}})
	if err != nil {
		return nil, err
	}
	there, err := worker.Open(worker.Config{Path: redoubt, Args: []string{"redoubt", "hsm-worker"}, Config: config, Env: product.Environment()})
	if err != nil {
		return nil, err
	}
	t.outside, err = there.Signer(ctx, "pkcs11:object=k")
	return t, err
}

// benchKeys measures one P-256 key in SoftHSM: our signer beside a bare loop of C_SignInit and C_Sign and beside crypto11, each
// with eight sessions and without verifying; then what the verification and the child process add; then a log whose head key is
// in the token beside one whose head key is software.
func benchKeys(ctx context.Context, dir string) ([]*row, error) {
	if !wanted("keys") {
		return nil, nil
	}
	t, err := openToken(ctx, dir)
	if err != nil {
		return []*row{{name: "P-256 signature in SoftHSM", peer: err.Error(), ours: []result{{}}}}, nil
	}
	bare, err := bareLoop(t)
	if err != nil {
		return nil, err
	}
	inside := signing(t.inside.Unverified(), selfCPU)
	both := func() time.Duration { return selfCPU() + childrenCPU() }
	const loop = "C_SignInit and C_Sign in a loop (SoftHSM, miekg/pkcs11)"
	var rows []*row
	for _, s := range []struct {
		name string
		side *side
	}{
		{"P-256 signature, pool and recovery", inside},
		{"P-256 signature, and verified", signing(t.inside, selfCPU)},
		{"P-256 signature, in a child process", signing(t.outside.Unverified(), both)},
	} {
		r := &row{name: s.name, clients: sessions, peer: loop, share: true}
		if err := turns(r, *rounds, *step, s.side, bare); err != nil {
			return rows, err
		}
		rows = append(rows, r)
	}
	r := &row{name: "P-256 signature, pool and recovery", clients: sessions, peer: "crypto11 v1.5.0", share: true}
	other, err := openCrypto11(t)
	if err != nil {
		r.peer = "crypto11 v1.5.0: " + err.Error()
	}
	if err := turns(r, *rounds, *step, inside, other); err != nil {
		return rows, err
	}
	rows = append(rows, r)

	head, err := openLog(ctx, dir, "token", t.outside, true)
	if err != nil {
		return rows, err
	}
	software, err := openOurs(ctx, dir, true)
	if err != nil {
		return rows, err
	}
	hardware := adding(head)
	hardware.cpu = both
	r = &row{name: "append of 1 KiB, head key in a token", clients: 64, peer: "the same log with a software key", share: true}
	if err := turns(r, 4**rounds, *step/4, hardware, adding(software)); err != nil { // short turns: the disk wanders
		return rows, err
	}
	return append(rows, r), nil
}

// signing lets eight clients sign in a loop.
func signing(key crypto.Signer, cpu func() time.Duration) *side {
	digest := sha256.Sum256([]byte("bench"))
	return looping(cpu, slices.Repeat([]func() error{func() error { _, err := key.Sign(rand.Reader, digest[:], crypto.SHA256); return err }}, sessions))
}

// looping calls each function in a loop of its own for a turn: nothing but the loop stands around it on any side.
func looping(cpu func() time.Duration, fns []func() error) *side {
	return &side{cpu: cpu, run: func() (result, error) {
		counts, errs := make([]int, len(fns)), make([]error, len(fns))
		var stop atomic.Bool
		var wg sync.WaitGroup
		began, used := time.Now(), cpu()
		for i, fn := range fns {
			wg.Go(func() {
				for !stop.Load() && errs[i] == nil {
					errs[i] = fn()
					counts[i]++
				}
			})
		}
		time.Sleep(*step)
		stop.Store(true)
		wg.Wait()
		n := 0
		for _, c := range counts {
			n += c
		}
		return result{rate: float64(n) / time.Since(began).Seconds(), cpu: float64((cpu() - used).Microseconds()) / float64(n)}, errors.Join(errs...)
	}}
}

// bareLoop signs on eight sessions with nothing around the module but its Go binding.
func bareLoop(t *token) (*side, error) {
	module := pkcs11.New(t.module)
	if module == nil {
		return nil, errors.New("the module does not load")
	}
	slots, err := module.GetSlotList(true) // initialized and logged in by openToken
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(slots, func(s uint) bool {
		info, err := module.GetTokenInfo(s)
		return err == nil && strings.TrimRight(info.Label, " ") == benchLabel
	})
	if i < 0 {
		return nil, errors.New("no slot of the token")
	}
	digest := sha256.Sum256([]byte("bench"))
	mech := []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_ECDSA, nil)}
	var fns []func() error
	for range sessions {
		s, err := module.OpenSession(slots[i], pkcs11.CKF_SERIAL_SESSION)
		if err != nil {
			return nil, err
		}
		if err := module.FindObjectsInit(s, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY)}); err != nil {
			return nil, err
		}
		found, _, err := module.FindObjects(s, 1)
		if err := errors.Join(err, module.FindObjectsFinal(s)); err != nil || len(found) != 1 {
			return nil, fmt.Errorf("%d keys: %w", len(found), err)
		}
		fns = append(fns, func() error {
			if err := module.SignInit(s, mech, found[0]); err != nil {
				return err
			}
			_, err := module.Sign(s, digest[:])
			return err
		})
	}
	return looping(selfCPU, fns), nil
}

func openCrypto11(t *token) (*side, error) {
	if t.peerErr != nil {
		return nil, t.peerErr
	}
	key, err := t.peer.FindKeyPair(nil, []byte("k"))
	if err != nil || key == nil {
		return nil, fmt.Errorf("finding the key: %w", err)
	}
	return signing(key, selfCPU), nil
}

// childrenCPU is what the workers of this process used.
func childrenCPU() (sum time.Duration) {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return 0
	}
	for _, task := range tasks {
		pids, err := os.ReadFile("/proc/self/task/" + task.Name() + "/children")
		if err != nil {
			continue
		}
		for _, field := range strings.Fields(string(pids)) {
			if pid, err := strconv.Atoi(field); err == nil {
				sum += processCPU(pid)
			}
		}
	}
	return sum
}
