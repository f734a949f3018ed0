package admission

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"redoubt.internal/log/strictjson"
	"redoubt.internal/mirror/images"
)

// receipts keep what was admitted while trust was fresh, one small file for each reference and digest:
//
//	receipts/<SHA-256 of the reference with its digest>.json
//	receipts/fresh    when trust was last seen to be fresh
//
// Replicas share them where there is a cluster (shared.go). A receipt never lets anything in by itself: the policy has to allow the image now, by the
// same rule, with everything but the age of trust.
type receipts struct {
	dir    string
	shared *shared    // nil: there is no cluster
	mu     sync.Mutex // guards the file fresh
}

// receipt is one admission. Its JSON form is stable.
type receipt struct {
	Reference string    `json:"reference"` // with the digest
	Rule      string    `json:"rule"`
	Signer    string    `json:"signer,omitempty"`
	Version   string    `json:"version"` // of trust and policy
	Admitted  time.Time `json:"admitted"`
}

const maxReceipt = 8 << 10

// nameOf is the name of the receipt of a reference.
func nameOf(reference string) string {
	sum := sha256.Sum256([]byte(reference))
	return hex.EncodeToString(sum[:])
}

func (r *receipts) file(reference string) string {
	return filepath.Join(r.dir, nameOf(reference)+".json")
}

// keep writes the receipt of an admission, durably, and shares it. One that says the same is left alone.
func (r *receipts) keep(ctx context.Context, ref images.Reference, v verdict, rules *Rules, now time.Time) error {
	if held, err := r.held(ref); err == nil && held.Rule == v.Rule && held.Version == rules.Version {
		return nil
	}
	b, err := json.Marshal(receipt{ref.String(), v.Rule, v.Signer, rules.Version, now.UTC().Truncate(time.Second)})
	if err != nil {
		return err
	}
	if err := writeDurably(r.file(ref.String()), b); err != nil {
		return fmt.Errorf("keeping the receipt of an admission: %w", err)
	}
	if r.shared != nil {
		r.shared.put(ctx, nameOf(ref.String()), string(b))
	}
	return nil
}

// held is the receipt of an earlier admission here; fs.ErrNotExist when there is none.
func (r *receipts) held(ref images.Reference) (receipt, error) {
	b, err := os.ReadFile(r.file(ref.String()))
	if err != nil {
		return receipt{}, err
	}
	return parseReceipt(b, ref)
}

// heldAnywhere is the receipt of an earlier admission, by this replica or another. What another admitted is kept here as well.
func (r *receipts) heldAnywhere(ctx context.Context, ref images.Reference) (receipt, error) {
	out, err := r.held(ref)
	if r.shared == nil || !errors.Is(err, fs.ErrNotExist) {
		return out, err
	}
	text, err := r.shared.get(ctx, nameOf(ref.String()))
	if err != nil {
		return receipt{}, err
	}
	if out, err = parseReceipt([]byte(text), ref); err != nil {
		return receipt{}, err
	}
	return out, writeDurably(r.file(ref.String()), []byte(text))
}

func parseReceipt(b []byte, ref images.Reference) (out receipt, err error) {
	if err := strictjson.Decode(b, strictjson.Limits{Bytes: maxReceipt, Depth: 2}, &out); err != nil {
		return receipt{}, fmt.Errorf("reading a receipt: %w", err)
	}
	if out.Reference != ref.String() {
		return receipt{}, fmt.Errorf("reading a receipt: it is that of %.200q", out.Reference)
	}
	return out, nil
}

// writeDurably writes a file that is whole and on the disk when it is there.
func writeDurably(path string, b []byte) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// admitted writes down that an image was admitted under trust that is fresh, and that trust was fresh now.
func (g *Gate) admitted(ctx context.Context, ref images.Reference, v verdict, rules *Rules) error {
	now := g.now()
	if err := g.receipts.keep(ctx, ref, v, rules, now); err != nil {
		return err
	}
	return g.receipts.sawFresh(ctx, now)
}

// onceAdmitted lets in what the policy refuses for the age of trust alone, if it was admitted here before by the same rule, and as long as
// the grace lasts. That begins when trust was last seen to be fresh.
func (g *Gate) onceAdmitted(ctx context.Context, ref images.Reference, v verdict) (verdict, error) {
	since, err := g.receipts.lastFresh(ctx, g.now())
	refuse := func(format string, a ...any) (verdict, error) {
		return verdict{}, fmt.Errorf("%w: %s; carry newer trust here", ErrStale, fmt.Sprintf(format, a...))
	}
	if err != nil {
		return refuse("it was never seen fresh here: %v", err)
	}
	held, err := g.receipts.heldAnywhere(ctx, ref)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return refuse("fresh last on %s: nothing new is admitted, and this digest was not admitted here before", since.Format(time.RFC3339))
	case err != nil:
		return refuse("%v", err)
	case held.Rule != v.Rule:
		return refuse("it was admitted before by rule %.100q, which no longer decides it", held.Rule)
	}
	until := since.Add(g.c.Grace)
	if g.people != nil {
		if later := g.people.graceUntil(); later.After(until) {
			until = later
		}
	}
	if !g.now().Before(until) {
		return refuse("fresh last on %s: the grace for what was admitted before ended %s; two people may extend it", since.Format(time.RFC3339), until.UTC().Format(time.RFC3339))
	}
	v.Stale, v.Until = since.UTC(), until.UTC()
	return v, nil
}

// freshStep is how exactly it is known when trust was last fresh.
const freshStep = time.Minute

// sawFresh remembers that trust is fresh, durably: a restart must not begin a grace anew.
func (r *receipts) sawFresh(ctx context.Context, now time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if last, err := r.readFresh(); err == nil && now.Sub(last) < freshStep && !now.Before(last) {
		return nil
	}
	text := now.UTC().Format(time.RFC3339)
	if err := writeDurably(filepath.Join(r.dir, freshName), []byte(text+"\n")); err != nil {
		return fmt.Errorf("noting that trust is fresh: %w", err)
	}
	if r.shared != nil {
		r.shared.put(ctx, freshName, text)
	}
	return nil
}

// lastFresh is when this replica or another last saw that trust was fresh. A time to come, by another's clock, is not believed.
func (r *receipts) lastFresh(ctx context.Context, now time.Time) (time.Time, error) {
	r.mu.Lock()
	last, err := r.readFresh()
	r.mu.Unlock()
	if r.shared == nil {
		return last, err
	}
	text, sharedErr := r.shared.get(ctx, freshName)
	if sharedErr != nil {
		return last, err
	}
	if other, parseErr := time.Parse(time.RFC3339, text); parseErr == nil && other.After(last) && !other.After(now) {
		return other, nil
	}
	return last, err
}

const freshName = "fresh"

func (r *receipts) readFresh() (time.Time, error) {
	b, err := os.ReadFile(filepath.Join(r.dir, freshName))
	if err != nil {
		return time.Time{}, err
	}
	return time.Parse(time.RFC3339, strings.TrimSpace(string(b)))
}
