package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"redoubt.internal/ca/ceremony"
	"redoubt.internal/hsm"
)

// adopted is the result of a ceremony that was held before init: the folder `redoubt ceremony run` wrote.
type adopted struct {
	folder     string
	transcript *ceremony.Transcript
	plan       ceremony.Plan
}

var errAdopt = errors.New("this ceremony's result cannot be taken over")

// readAdopted verifies the result in folder: a run, of a whole deployment, signed by as many of its operators as its plan asks for.
func readAdopted(folder string, request *initRequest) (*adopted, error) {
	data, err := readRecord(filepath.Join(folder, ceremony.TranscriptFile))
	if err != nil {
		return nil, fmt.Errorf("--ceremony: %w", err)
	}
	t, err := ceremony.Verifier{Attestation: attestationVerifier(nil)}.Verify(data)
	if err != nil {
		return nil, fmt.Errorf("--ceremony: %w", err)
	}
	plan := t.Plan()
	refuse := func(format string, args ...any) (*adopted, error) {
		return nil, fmt.Errorf("--ceremony: %w: %s", errAdopt, fmt.Sprintf(format, args...))
	}
	have, want := t.Signed()
	switch {
	case t.Rehearsal():
		return refuse("it is a rehearsal")
	case plan.Kind != ceremony.Found && plan.Kind != ceremony.OfflineRoot:
		return refuse("it is of kind %s; a deployment begins with found or offline-root", plan.Kind)
	case plan.Domain != request.Domain:
		return refuse("it is for the domain %s", plan.Domain)
	case have < want:
		return refuse("%d more of its operators have to sign it (`redoubt ceremony sign`)", want-have)
	case (plan.Keys.Rekor2 == nil) != request.OneTree:
		return refuse("--one-tree and a plan without a rekor-2 key go together")
	case request.Profile == profileProduction && plan.Profile != ceremony.Production:
		return refuse("its plan is of profile %s", plan.Profile)
	}
	for _, k := range t.Keys() {
		if k.Info.Software && request.Profile == profileProduction && !request.AllowSoftware {
			return refuse("the %s key is held by software; --allow-software-keys accepts that", k.Role)
		}
	}
	if request.Keys == "" || request.Keys == "soft:" { // as the flag is when nobody set it
		request.Keys = tokenURI(plan.Keys.Issuing.URI)
	}
	return &adopted{folder, t, plan}, nil
}

// configure names the ceremony's keys in the configuration. The root of an offline-root ceremony is on another machine, and a
// successor waits: neither is a key of this one.
func (a *adopted) configure(cfg *Config) {
	for role, uri := range a.plan.KeyURIs() {
		switch {
		case role == ceremony.RoleSuccessor, role == ceremony.RoleTSAIntermediate:
			continue
		case role == ceremony.RoleRoot && a.plan.Kind == ceremony.OfflineRoot:
			delete(cfg.Keys.Roles, role)
			continue
		}
		cfg.Keys.Roles[role] = uri
	}
}

// layDown copies the result into the state directory, software keys of the folder with it.
func (a *adopted) layDown(ctx context.Context, dir layout, keys *keyring) error {
	if err := a.transcript.Write(dir.path("pki")); err != nil {
		return err
	}
	for role, uri := range a.plan.KeyURIs() {
		if path, soft := strings.CutPrefix(uri, "soft:"); soft && !filepath.IsAbs(path) {
			if err := copyPrivate(filepath.Join(a.folder, "keys", path), filepath.Join(dir.keys(), path)); err != nil {
				return fmt.Errorf("taking over the %s key: %w", role, err)
			}
		}
	}
	for role, uri := range keys.cfg.Roles { // the keys are where the plan says, and the transcript's
		key, err := keys.signer(ctx, uri)
		if err != nil {
			return fmt.Errorf("opening the %s key: %w", role, err)
		}
		record, _ := a.transcript.Key(role)
		if record.Info.Fingerprint != key.Info().Fingerprint {
			return fmt.Errorf("%w: %s holds another key than the transcript says of %s", ceremony.ErrForeignKey, uri, role)
		}
		if err := key.Check(ctx); err != nil {
			return fmt.Errorf("%s key: %w", role, err)
		}
	}
	return nil
}

// copyPrivate copies a file only its owner can read to a place that was free.
func copyPrivate(from, to string) error {
	data, err := hsm.ReadPrivate(from, 64<<10)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

// makeKeys puts keys and certificates into the new state directory: by a ceremony now, or from one that was held before.
func (request *initRequest) makeKeys(ctx context.Context, cfg *Config, dir layout, keys *keyring, out io.Writer) error {
	if request.adopted != nil {
		fmt.Fprintf(out, "taking over the ceremony in %s\n", request.adopted.folder)
		return request.adopted.layDown(ctx, dir, keys)
	}
	return firstCeremony(ctx, cfg, dir, keys, func(s string) { fmt.Fprintln(out, s) })
}
