package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/ca"
	"redoubt.internal/ca/approval"
	"redoubt.internal/ca/denied"
	"redoubt.internal/ca/trust"
	"redoubt.internal/log/audit"
	"redoubt.internal/log/store"
)

// Denied identities. The role ca has the list, in authority.db, and issues nothing to who stands in it; the trust repository publishes it as
// a target, said anew each day, and whoever verifies refuses what those identities signed. Where the roles run apart, trust asks ca for it.

var deniedKey = []byte("denied/list")

// openDenied reads the list: the role ca its own, trust alone what it published last.
func (in *instance) openDenied() error {
	switch {
	case in.authorityDB != nil:
		return in.authorityDB.View(func(tx store.Tx) error {
			list, err := in.storedDenied(tx)
			in.denied.Store(list)
			return err
		})
	case in.tuf != nil:
		data, err := in.tuf.Target(denied.FileName)
		if errors.Is(err, trust.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		list, err := denied.Parse(data)
		if err != nil {
			return fmt.Errorf("the published list: %w", err)
		}
		in.denied.Store(list)
	}
	return nil
}

func (in *instance) storedDenied(tx store.Tx) (*denied.List, error) {
	data, err := tx.Get(deniedKey)
	if err != nil || data == nil {
		return denied.New(in.cfg.Domain), err
	}
	list, err := denied.Parse(data)
	if err != nil {
		return nil, fmt.Errorf("authority.db: %w", err)
	}
	return list, nil
}

// deniedFile is the list as it is published today; nothing where none is known.
func (in *instance) deniedFile() ([]byte, error) {
	list := in.denied.Load()
	if list == nil {
		return nil, nil
	}
	return list.Dated(in.now())
}

// publishDenied makes the trust repository say today's list.
func (in *instance) publishDenied(ctx context.Context) error {
	if in.tuf == nil {
		return nil
	}
	data, err := in.deniedFile()
	if err != nil || data == nil {
		return err
	}
	if err := in.mayPublish(); err != nil {
		return err
	}
	return in.tuf.Replace(ctx, trust.File{Name: denied.FileName, Data: data})
}

// deniedEvery is how often trust, running apart, asks ca for the list.
const deniedEvery = 10 * time.Second

// followDenied keeps what trust publishes up to the list of ca, until ctx ends. A version below the one it has is not taken: clients have seen it.
func (in *instance) followDenied(ctx context.Context) {
	for {
		if err := in.askDenied(ctx); err != nil && ctx.Err() == nil && !errors.Is(err, errRoleDown) && !errors.Is(err, errUnheard) {
			in.logger.ErrorContext(ctx, "publishing the list of denied identities", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(deniedEvery):
		}
	}
}

func (in *instance) askDenied(ctx context.Context) error {
	raw, err := ask[json.RawMessage](ctx, in.cfg, partCA, identityList.name, struct{}{})
	if err != nil {
		return err
	}
	list, err := denied.Parse(raw)
	if err != nil {
		return err
	}
	if held := in.denied.Load(); held != nil && list.Version < held.Version {
		return fmt.Errorf("%w: the role ca has version %d, version %d was published", denied.ErrOld, list.Version, held.Version)
	}
	in.denied.Store(list)
	return in.publishDenied(ctx)
}

// deniedChecks say where what is published is not the list.
func (in *instance) deniedChecks() []check {
	if in.tuf == nil || in.denied.Load() == nil {
		return nil
	}
	want, err := in.deniedFile()
	if err == nil {
		var is []byte
		if is, err = in.tuf.Target(denied.FileName); err == nil && !bytes.Equal(is, want) {
			err = fmt.Errorf("version %d of today is not published: who verifies has an earlier one", in.denied.Load().Version)
		}
	}
	return []check{warning("denied identities", err, "`redoubt trust publish`")}
}

// denyArgs name one entry of the list.
type denyArgs struct {
	denied.Entry
	approvalArgs
}

// deniedResult is the JSON of `redoubt identity deny|allow -o json`.
type deniedResult struct {
	Version   uint64 `json:"version"` // of the list now
	Denied    int    `json:"denied"`  // entries in it
	Published bool   `json:"published"`
	Reason    string `json:"reason,omitempty"` // why it is not published yet
}

var identityDeny = verb[denyArgs, deniedResult]{"identity.deny", func(ctx context.Context, in *instance, actor string, a denyArgs) (deniedResult, error) {
	return in.changeDenied(ctx, actor, "identity.deny", a, (*denied.List).With)
}}

var identityAllow = verb[denyArgs, deniedResult]{"identity.allow", func(ctx context.Context, in *instance, actor string, a denyArgs) (deniedResult, error) {
	return in.changeDenied(ctx, actor, "identity.allow", a, (*denied.List).Without)
}}

// changeDenied does one change of the list that enough people agreed to: the record, the list and that the act is spent are one transaction.
// From then on the CA goes by it; then it is published.
func (in *instance) changeDenied(ctx context.Context, actor, kind string, a denyArgs, change func(*denied.List, denied.Entry, uint64) (*denied.List, error)) (r deniedResult, err error) {
	if in.authorityDB == nil {
		return r, fmt.Errorf("%w: the role ca has the list of denied identities", errOtherProcess)
	}
	floor := uint64(in.onRecord().TrustFloor)
	if _, err := change(in.denied.Load(), a.Entry, floor); err != nil { // before anybody is asked
		return r, cmdline.Hinted(err, "`redoubt identity list` prints the list")
	}
	agreed, err := in.agree(ctx, actor, kind, entryText(a.Entry), a.approvalArgs)
	if err != nil {
		return r, err
	}
	var list *denied.List
	e := audit.Event{Actor: actor, Action: kind, Object: a.Identity + a.IdentityRegexp, Outcome: audit.Success, Detail: map[string]string{"issuer": a.Issuer, "reason": a.Reason}}
	_, err = in.audit.Add(ctx, e, func(tx store.Tx) error {
		held, err := in.storedDenied(tx)
		if err == nil {
			list, err = change(held, a.Entry, floor)
		}
		if err != nil {
			return err
		}
		data, err := json.Marshal(list)
		if err != nil {
			return err
		}
		if agreed.in != nil {
			if err := agreed.spend(tx); err != nil {
				return err
			}
		}
		return tx.Put(deniedKey, data)
	})
	if err != nil {
		return r, fmt.Errorf("recording %s: %w", kind, err)
	}
	in.denied.Store(list)
	if agreed.in != nil {
		if err := agreed.done(); err != nil {
			return r, err
		}
	}
	r = deniedResult{Version: list.Version, Denied: len(list.Entries)}
	switch err := in.publishDenied(ctx); {
	case in.tuf == nil:
		r.Reason = fmt.Sprintf("the role trust publishes it within %s", deniedEvery)
	case err != nil:
		r.Reason = err.Error()
	default:
		r.Published = true
	}
	return r, nil
}

// entryText is what people approve of a change.
func entryText(e denied.Entry) (lines []string) {
	lines = []string{"issuer " + approval.Value(e.Issuer)}
	if e.IdentityRegexp != "" {
		lines = append(lines, "identities that match "+approval.Value(e.IdentityRegexp))
	} else {
		lines = append(lines, "identity "+approval.Value(e.Identity))
	}
	if !e.Since.IsZero() {
		lines = append(lines, "since "+e.Since.UTC().Format(time.RFC3339Nano))
	}
	if !e.Until.IsZero() {
		lines = append(lines, "until "+e.Until.UTC().Format(time.RFC3339Nano))
	}
	if e.Reason != "" {
		lines = append(lines, "reason "+approval.Value(e.Reason))
	}
	return lines
}

var identityList = verb[struct{}, denied.List]{"identity.list", func(_ context.Context, in *instance, _ string, _ struct{}) (denied.List, error) {
	return *in.denied.Load(), nil
}}

// explained is the JSON of `redoubt identity explain -o json`.
type explained struct {
	Issuer   string         `json:"issuer"`
	Identity string         `json:"identity"`
	Known    bool           `json:"known"`   // tokens of the issuer are accepted here
	Denied   bool           `json:"denied"`  // nothing is issued to it now
	Version  uint64         `json:"version"` // of the list
	Entries  []denied.Entry `json:"entries"` // that name it, at whatever time
	Issued   []ca.Record    `json:"issued"`  // the newest certificates for it
}

var identityExplain = verb[denied.Entry, explained]{"identity.explain", func(ctx context.Context, in *instance, _ string, a denied.Entry) (explained, error) {
	list := in.denied.Load()
	out := explained{Issuer: a.Issuer, Identity: a.Identity, Version: list.Version, Denied: list.Match(a.Issuer, a.Identity, in.now()) != nil, Entries: list.Naming(a.Issuer, a.Identity), Issued: []ca.Record{}}
	_, out.Known = in.issuance.Load().verifier.Fulcio().GetIssuer(a.Issuer)
	records, err := ca.Search(ctx, in.authorityDB, ca.Query{Identity: a.Identity})
	for _, r := range records {
		if r.Issuer == a.Issuer && r.State == ca.StateIssued && len(out.Issued) < 10 {
			out.Issued = append(out.Issued, r)
		}
	}
	return out, err
}}
