package main

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/ca/approval"
	"redoubt.internal/ca/ceremony"
	"redoubt.internal/hsm"
)

// rotateArgs are those of `redoubt keys rotate`.
type rotateArgs struct {
	Role      string        `json:"role"`
	Key       string        `json:"key,omitempty"`       // URI of the new key; "" is the next name in keys.token
	Algorithm hsm.Algorithm `json:"algorithm,omitempty"` // "" is that of the key before
	Chain     string        `json:"chain,omitempty"`     // PEM of certificates a ceremony made over the key that exists at Key
	Announce  bool          `json:"announce,omitempty"`  // stop before the new key signs
	Overlap   time.Duration `json:"overlap"`
	approvalArgs
}

// rotateResult is the JSON of `redoubt keys rotate -o json`.
type rotateResult struct {
	Role  string    `json:"role"`
	From  string    `json:"from"` // name of the key before
	To    string    `json:"to"`
	URI   string    `json:"uri"`
	State string    `json:"state"`        // announced or active
	Start time.Time `json:"start"`        // signatures of the new key count from here on
	End   time.Time `json:"end,omitzero"` // those of the one before until here
	Chain string    `json:"chain,omitempty"`
	Next  string    `json:"next,omitempty"` // what is left to do
}

const (
	// defaultOverlap is how long signatures of the key before count after the new one took over. A certificate lives ten minutes, and
	// its holder may sign until then.
	defaultOverlap = 15 * time.Minute
	maxOverlap     = 366 * 24 * time.Hour
	// backdate lets clients whose clocks are late accept a new log's first entry.
	backdate = time.Minute
)

var (
	errRotation      = errors.New("this key is not rotated here")
	errRotating      = errors.New("another rotation is under way")
	errNotDescendant = errors.New("a rotation of this key is under way")
)

// whyNot says for each role that is not rotated by this verb what to do instead.
var whyNot = map[string]string{
	roleRoot:     "a new root is a ceremony of its own: `redoubt ceremony plan`, kind rotate-root, with cross-signing",
	roleAudit:    "its tree is the record of this instance, and a second tree would part the record of what is recorded now from the intents before it; only where entries were lost with a disk a next one is opened (`redoubt log retire`)",
	roleTLS:      "clients know it by its certificate: give them a new CA first, and the listeners a certificate of that (tls.cert, tls.key, tls.ca)",
	roleExporter: "the next exporting host makes its own (`redoubt init`); this one announces that line (`redoubt mirror key`) in its last parcel, `redoubt mirror export --announce LINE`; for a host that is lost, `redoubt mirror exporter announce` inside",
}

// rotateKey gives a role a new key. Each step is durable before the next begins, and the same verb again goes on where one stopped:
//
//	1 planned    the new key's name and place are on record
//	2            the key, its certificate or its empty log exist; the trust repository's root names it
//	3 announced  on record with its public key
//	4            the trusted root that lists it is published; clients who fetch it now know it before it signs
//	5 active     on record, the key before retired with its end: one rename
//	6            opened anew, and the trusted root published again: finish, in the same server or at the next start
var rotateKey = verb[rotateArgs, rotateResult]{"keys.rotate", func(ctx context.Context, in *instance, actor string, a rotateArgs) (rotateResult, error) {
	if !in.rotating.TryLock() {
		return rotateResult{}, errRotating
	}
	defer in.rotating.Unlock()
	if in.superseded.Load() {
		return rotateResult{}, cmdline.Unavailable(errRotating)
	}
	role, err := in.rotatable(a)
	if err != nil {
		return rotateResult{}, err
	}
	if err := in.mayPublish(); err != nil {
		return rotateResult{}, err
	}
	if err := in.unlock(ctx, in.history.active(roleAudit), in.onRecord().active(roleTUF)); err != nil {
		return rotateResult{}, err
	}
	if begun, err := in.completed(ctx, role); begun != nil || err != nil {
		return *begun, err
	}
	lines, err := in.rotationText(role, a)
	if err != nil {
		return rotateResult{}, err
	}
	agreed, err := in.agree(ctx, actor, "keys.rotate", lines, a.approvalArgs)
	if err != nil {
		return rotateResult{}, err
	}
	// 1
	next, err := in.plan(ctx, actor, role, a)
	if err != nil {
		return rotateResult{}, err
	}
	if next.State == statePlanned {
		// 2
		made, err := in.make(ctx, next, a.Chain)
		if err != nil {
			return rotateResult{}, in.unplan(ctx, next, a.Chain != "", err)
		}
		atPoint("made")
		// 3
		if err := in.announce(ctx, actor, made); err != nil {
			return rotateResult{}, in.unplan(ctx, next, a.Chain != "", err)
		}
		next = *in.onRecord().find(next.Name)
	}
	// 4
	if err := in.publish(ctx); err != nil {
		return rotateResult{}, fmt.Errorf("publishing the announcement: %w", err)
	}
	atPoint("announced")
	result := rotateResult{Role: role, From: in.onRecord().active(role), To: next.Name, URI: redactURI(next.URI), State: stateAnnounced, Start: next.Start, Chain: next.Chain}
	if a.Announce {
		result.Next = "once every client has the new trusted root, `redoubt keys rotate " + role + "` lets the new key sign"
		return result, agreed.finish()
	}
	// 5
	if result.End, err = in.activate(ctx, actor, role, next.Name, a.Overlap); err != nil {
		return rotateResult{}, err
	}
	atPoint("active")
	result.State = stateActive
	result.Next = toldClients
	return result, agreed.finish()
}}

// rotationText is what people approve of a rotation. The key before is in it, so that it is another act once that is replaced.
func (in *instance) rotationText(role string, a rotateArgs) ([]string, error) {
	from := in.onRecord().active(role)
	lines := []string{"role " + role, "key before " + from}
	if key := in.roleKeys[from]; key != nil {
		der, err := x509.MarshalPKIXPublicKey(key.Public())
		if err != nil {
			return nil, err
		}
		lines = append(lines, fmt.Sprintf("sha256 of its public key %x", sha256.Sum256(der)))
	}
	lines = append(lines, "new key "+approval.Value(orDefault(redactURI(a.Key), "the next in keys.token")), "algorithm "+orDefault(string(a.Algorithm), "as before"))
	if a.Chain != "" {
		chain, err := os.ReadFile(a.Chain)
		if err != nil {
			return nil, fmt.Errorf("--chain: %w", err)
		}
		lines = append(lines, fmt.Sprintf("sha256 of its chain %x", sha256.Sum256(chain)))
	}
	return append(lines, fmt.Sprintf("announced only %t", a.Announce), "signatures of the key before count for "+a.Overlap.String()), nil
}

// unlock opens the tokens of keys before they have to sign: opening one may take longer than a signature is given.
func (in *instance) unlock(ctx context.Context, names ...string) error {
	for _, name := range names {
		if _, err := in.keys.role(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// completed ends a rotation that stopped between its last two steps. Where it was one of role, that was what the verb is about.
func (in *instance) completed(ctx context.Context, role string) (*rotateResult, error) {
	name := in.onRecord().Unpublished
	if err := in.finishLocked(ctx); err != nil {
		return &rotateResult{}, fmt.Errorf("ending the rotation to %s: %w", name, err)
	}
	k := in.onRecord().find(name)
	if k == nil || k.Role != role || k.State != stateActive {
		return nil, nil
	}
	all := in.onRecord().of(role)
	before := all[slices.IndexFunc(all, func(o keyInstance) bool { return o.Name == name })-1]
	return &rotateResult{Role: role, From: before.Name, To: name, URI: redactURI(k.URI), State: stateActive, Start: k.Start, End: before.End, Chain: k.Chain, Next: toldClients}, nil
}

const toldClients = "give clients the new trusted root: those of the trust repository fetch it, others need `redoubt client setup`"

// rotatable returns the role a means, or why it has no new key here.
func (in *instance) rotatable(a rotateArgs) (string, error) {
	role := a.Role
	if k := in.onRecord().find(role); k != nil {
		role = k.Role // by the name of one of its keys
	}
	if _, ok := in.cfg.Keys.Roles[role]; !ok {
		return "", cmdline.Usage("%q: no such role; roles are %s", a.Role, strings.Join(slices.Sorted(maps.Keys(in.cfg.Keys.Roles)), ", "))
	}
	if why, ok := whyNot[role]; ok {
		return "", cmdline.Hinted(fmt.Errorf("%w: %s", errRotation, role), "%s", why)
	}
	if a.Overlap < 0 || a.Overlap > maxOverlap {
		return "", cmdline.Usage("--overlap: want between 0s and %s", maxOverlap)
	}
	if role == roleOIDC && !in.cfg.Issuer.Enabled {
		return "", fmt.Errorf("%w: the built-in issuer is off", errRotation)
	}
	if a.Chain != "" && (role != roleIssuing && role != roleTSA || a.Key == "") {
		return "", cmdline.Usage("--chain goes with --key, for issuing and tsa")
	}
	if in.frozen(role) && in.onRecord().find(role) == nil {
		return "", cmdline.Usage("%s is frozen by redoubt.yaml", role)
	}
	if allowed := ceremony.AllowedAlgorithms(role); a.Algorithm != "" && !slices.Contains(allowed, a.Algorithm) {
		return "", cmdline.Usage("--algorithm %s: the role %s allows %v, because clients verify nothing else there", a.Algorithm, role, allowed)
	}
	return role, nil
}

// announce puts the public key, and the start of trust in it, on record.
func (in *instance) announce(ctx context.Context, actor string, made keyInstance) error {
	made.State, made.Start = stateAnnounced, in.now().Add(-backdate).UTC().Truncate(time.Second)
	if made.Chain != "" {
		chain, err := readChain(in.dir.resolve(made.Chain))
		if err != nil {
			return err
		}
		made.Start = chain[0].NotBefore
	}
	h := in.onRecord().clone()
	*h.find(made.Name) = made
	h.Unpublished = made.Name
	if _, err := in.materialOf(h); err != nil { // a chain clients would not take
		return err
	}
	detail := map[string]string{"step": stateAnnounced, "name": made.Name, "uri": redactURI(made.URI), "fingerprint": fmt.Sprintf("%x", sha256.Sum256(made.PublicKey))}
	if err := in.record(ctx, actor, "keys.rotate", made.Role, detail); err != nil {
		return err
	}
	return in.keep(h)
}

// activate lets the key called name sign for role and retires the one before.
func (in *instance) activate(ctx context.Context, actor, role, name string, overlap time.Duration) (end time.Time, err error) {
	before := in.onRecord().active(role)
	end = in.now().Add(overlap).UTC().Truncate(time.Second)
	detail := map[string]string{"step": stateActive, "name": name, "retires": before, "end": end.Format(time.RFC3339)}
	if err := in.record(ctx, actor, "keys.rotate", role, detail); err != nil {
		return end, err
	}
	atPoint("recorded")
	h := in.onRecord().clone()
	old, next := h.find(before), h.find(name)
	old.State, old.End = stateRetired, end
	if floor := old.Start; end.Before(floor) {
		old.End = floor
	}
	next.State, h.Unpublished = stateActive, name
	if _, err := in.cfg.with(h); err != nil {
		return end, err
	}
	if err := in.keep(h); err != nil {
		return end, err
	}
	in.superseded.Store(true)
	return old.End, nil
}

// keep makes h the record of keys. What this process serves stays what it was until it is opened anew.
func (in *instance) keep(h *history) error {
	if err := h.write(in.dir); err != nil {
		return err
	}
	in.latest.Store(h)
	return nil
}

// onRecord is the record of keys as it is now; in.history is what this instance was opened with.
func (in *instance) onRecord() *history {
	if h := in.latest.Load(); h != nil {
		return h
	}
	return in.history
}

// publish makes the trust repository show what is on record now.
func (in *instance) publish(ctx context.Context) error {
	m, err := in.material() // with chains read anew: an announced certificate is published with the others
	if err != nil {
		return err
	}
	targets, err := m.Targets()
	if err != nil {
		return err
	}
	return in.tuf.Publish(ctx, targets)
}

// finish ends what a rotation began: everything published is signed by the key in use, the trusted root shows the record. It does
// nothing where that is so.
func (in *instance) finish(ctx context.Context) error {
	in.rotating.Lock()
	defer in.rotating.Unlock()
	return in.finishLocked(ctx)
}

// finishLocked is finish for a caller that has in.rotating.
func (in *instance) finishLocked(ctx context.Context) error {
	if in.onRecord().Unpublished == "" || in.superseded.Load() || in.parts != nil { // where roles run apart, keys are rotated while none does
		return nil
	}
	if err := in.olderCopy(); err != nil {
		return err
	}
	if err := in.recordRetired(ctx, localActor()); err != nil {
		return err
	}
	if err := in.unlock(ctx, in.onRecord().active(roleTUF)); err != nil {
		return err
	}
	if in.onRecord().pending(roleTUF) == nil {
		if err := in.tuf.Settle(ctx); err != nil {
			return err
		}
	}
	atPoint("settled")
	if err := in.publish(ctx); err != nil {
		return err
	}
	atPoint("published")
	h := in.onRecord().clone()
	h.Unpublished = ""
	return in.keep(h)
}
