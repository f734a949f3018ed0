package main

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"time"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/ca/ceremony"
	"redoubt.internal/hsm"
	"redoubt.internal/log"
	"redoubt.internal/log/rekor"
	"redoubt.internal/log/store"
	"redoubt.internal/log/store/bolt"
)

// make brings the planned key k into being, with what goes with it: certificates for an authority, an empty log with its signed head
// and high-water mark, a place in the trust repository's root. What an interrupted run left of it is taken, not made again.
func (in *instance) make(ctx context.Context, k keyInstance, chain string) (keyInstance, error) {
	var err error
	switch {
	case chain != "":
		k.Chain, err = in.takeChain(k, chain)
	case k.Role == roleIssuing || k.Role == roleTSA:
		k.Chain, err = in.certify(ctx, k)
	}
	if err != nil {
		return k, err
	}
	key, err := in.keyFor(ctx, k)
	if err != nil {
		return k, err
	}
	if err := key.Check(ctx); err != nil {
		return k, fmt.Errorf("the new key does not sign: %w", err)
	}
	k.Algorithm = key.Info().Algorithm
	if allowed := ceremony.AllowedAlgorithms(k.Role); !slices.Contains(allowed, k.Algorithm) {
		return k, fmt.Errorf("%w: a key of type %s; the role %s allows %v", hsm.ErrUnsupported, k.Algorithm, k.Role, allowed)
	}
	if k.PublicKey, err = x509.MarshalPKIXPublicKey(key.Public()); err != nil {
		return k, err
	}
	if k.Chain != "" {
		certificates, err := readChain(in.dir.resolve(k.Chain))
		if err != nil {
			return k, err
		}
		return k, matches(certificates[0], key, in.dir.resolve(k.Chain), redactURI(k.URI), k.Name)
	}
	switch {
	case k.Role == roleTUF:
		err = in.tuf.Introduce(ctx, key)
	case k.Role == roleCT:
		err = in.createLog(ctx, k.Name, key, certificateLogConfig(in.authorityDB, k.Name))
	case k.Role == roleAudit:
		err = in.createLog(ctx, k.Name, key, log.Config{DB: in.authorityDB, Prefix: k.Name + "/"})
	case shardNumber(k.Role) > 0:
		err = in.createArtifactLog(ctx, k, key)
	}
	return k, err
}

// keyFor returns the planned key, made now unless it is there: when it was planned its place was empty.
func (in *instance) keyFor(ctx context.Context, k keyInstance) (*hsm.Key, error) {
	token, err := in.keys.token(k.URI)
	if err != nil {
		return nil, err
	}
	key, err := token.Signer(ctx, k.URI)
	if errors.Is(err, hsm.ErrNotFound) {
		key, err = token.Generate(ctx, k.URI, k.Algorithm)
		atPoint("key")
	}
	if err != nil {
		return nil, fmt.Errorf("making the key %s of %s: %w", redactURI(k.URI), k.Role, err)
	}
	return key, nil
}

// certify has a ceremony make the key and its certificate below the root, and returns the file of its chain.
func (in *instance) certify(ctx context.Context, k keyInstance) (string, error) {
	folder := in.dir.pki(k.Name)
	file := map[string]string{roleIssuing: ceremony.CAChainFile, roleTSA: ceremony.TSAChainFile}[k.Role]
	at := "pki/" + k.Name + "/" + file
	if _, err := os.Stat(layout{folder}.path(ceremony.TranscriptFile)); err == nil {
		return at, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if err := os.RemoveAll(folder); err != nil { // what a ceremony left whose transcript, written last, is not there
		return "", err
	}
	before := in.authorities[k.Role][len(in.authorities[k.Role])-1].chain
	root := before[len(before)-1]
	uri, ok := in.cfg.Keys.Roles[roleRoot]
	if !ok {
		return "", cmdline.Hinted(errors.New("the root's key is not here"), "hold a ceremony of kind rotate where it is, and pass --key and --chain")
	}
	plan := ceremony.Rotation(in.cfg.Domain, &ceremony.Authority{URI: uri, Chain: string(pemChain([]*x509.Certificate{root}))}, map[string]ceremony.KeyPlan{k.Role: {URI: k.URI, Algorithm: k.Algorithm}})
	if len(before[0].Subject.Organization) > 0 {
		plan.Organization = before[0].Subject.Organization[0]
	}
	certificate := plan.Certificates.Issuing
	if k.Role == roleTSA {
		certificate = plan.Certificates.TSA
	}
	certificate.CommonName += " " + strconv.Itoa(instanceNumber(k.Name))
	open := func(_ context.Context, uri string) (hsm.Token, error) {
		token, err := in.keys.token(uri)
		if err != nil || uri != k.URI {
			return token, err
		}
		return goesOn{token, uri}, nil
	}
	transcript, err := ceremony.Run(ctx, plan, open, time.Now, func(step string) { in.logger.Debug("ceremony", "step", step) })
	if err != nil {
		return "", cmdline.Hinted(fmt.Errorf("certifying the new %s key: %w", k.Role, err), "keys.roles.root names the key of the root above the certificate in use, %s; where it is offline, hold a ceremony of kind rotate there and pass --key and --chain", root.Subject)
	}
	atPoint("certified")
	return at, transcript.Write(folder)
}

// goesOn is a token as a ceremony sees it that goes on where an interrupted one stopped: the one key at uri, which that one may have
// made, counts as not there until it is asked for.
type goesOn struct {
	hsm.Token
	uri string
}

func (t goesOn) Signer(ctx context.Context, uri string) (*hsm.Key, error) {
	if uri == t.uri {
		return nil, fmt.Errorf("%s: %w", redactURI(uri), hsm.ErrNotFound)
	}
	return t.Token.Signer(ctx, uri)
}

func (t goesOn) Generate(ctx context.Context, uri string, alg hsm.Algorithm) (*hsm.Key, error) {
	key, err := t.Token.Signer(ctx, uri)
	switch {
	case errors.Is(err, hsm.ErrNotFound):
		return t.Token.Generate(ctx, uri, alg)
	case err == nil && key.Info().Algorithm != alg:
		return nil, fmt.Errorf("%s holds a key of type %s, the plan says %s: %w", redactURI(uri), key.Info().Algorithm, alg, hsm.ErrExists)
	}
	return key, err
}

// takeChain copies a chain that a ceremony made elsewhere to its place below pki.
func (in *instance) takeChain(k keyInstance, from string) (string, error) {
	chain, err := readChain(in.dir.resolve(from))
	if err != nil {
		return "", err
	}
	name := map[string]string{roleIssuing: ceremony.CAChainFile, roleTSA: ceremony.TSAChainFile}[k.Role]
	if err := os.MkdirAll(in.dir.pki(k.Name), 0o755); err != nil {
		return "", err
	}
	at := "pki/" + k.Name + "/" + name
	return at, replaceFile(in.dir.resolve(at), pemChain(chain), 0o644)
}

// createLog makes an empty log with its signed head and its high-water marks, unless an interrupted run did.
func (in *instance) createLog(ctx context.Context, name string, key *hsm.Key, c log.Config) error {
	c.Origin, c.Signer, c.Now, c.Logger = in.cfg.origin(name), key, in.now, in.logger
	c.HighWater = in.marks(c.Origin)
	err := log.Create(ctx, c)
	if errors.Is(err, log.ErrExists) {
		_, err = log.Open(ctx, c)
	}
	if err != nil {
		return fmt.Errorf("creating the %s log: %w", name, err)
	}
	return nil
}

// createArtifactLog makes the database of an artifact log and the empty log in it.
func (in *instance) createArtifactLog(ctx context.Context, k keyInstance, key *hsm.Key) error {
	path := in.dir.logDB(k.Name)
	open := bolt.Create
	if _, err := os.Stat(path); err == nil {
		open = bolt.Open
	}
	var db store.DB
	db, err := open(path)
	if err != nil {
		return fmt.Errorf("making %s: %w", path, err)
	}
	err = in.createLog(ctx, k.Name, key, log.Config{DB: db, IndexKeys: rekor.IndexKeys, Unique: true})
	return errors.Join(err, db.Close())
}

// newTreeID draws the number of a tree: positive, so that every client can read it.
func newTreeID() (int64, error) {
	var id [8]byte
	if _, err := rand.Read(id[:]); err != nil {
		return 0, err
	}
	return int64(binary.BigEndian.Uint64(id[:])>>1) | 1, nil
}

// atPoint is called at the named points of a rotation, between what is durable before and after. Tests end the process there.
var atPoint = func(point string) {}
