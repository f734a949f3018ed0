package ca

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"redoubt.internal/ca/identity"
	"redoubt.internal/log/audit"
	"redoubt.internal/log/store"
)

// Pseudonyms. The people of an issuer with pseudonyms stand in certificates, logs and records under a name that is drawn by lot at their
// first certificate and kept here, beside the register of certificates. Nothing computes the one from the other, so there is no key whose
// theft names everybody; who may read these two tables may.
//
//	ca/pseudonym/<pseudonym>                                  JSON of Person
//	ca/person/<32 octets SHA-256 of issuer, NUL, identity>    pseudonym; the identity in lower case, for case tells no mailboxes apart here
const (
	pseudonymPrefix = prefix + "pseudonym/"
	personPrefix    = prefix + "person/"
)

// unassigned names in records whoever was refused before there was a pseudonym.
const unassigned = "unassigned"

// pseudonymAction is the audit action of drawing one.
const pseudonymAction = "pseudonym.assign"

// ErrNoPseudonym: the register has no such pseudonym, or nobody of that name.
var ErrNoPseudonym = errors.New("no such pseudonym")

// Person is who stands behind a pseudonym.
type Person struct {
	Pseudonym string    `json:"pseudonym"` // as in certificates: 26 characters @ the domain of the issuer's pseudonyms
	Issuer    string    `json:"issuer"`
	Identity  string    `json:"identity"` // the e-mail of the tokens
	Since     time.Time `json:"since"`    // of its first certificate
}

func personKey(issuer, id string) []byte {
	sum := sha256.Sum256([]byte(issuer + "\x00" + strings.ToLower(id)))
	return join(personPrefix, sum[:])
}

// nameOf is who under the name that certificates and records have: its pseudonym, or nobody's where it has none yet.
func (a *Authority) nameOf(who identity.Principal) (identity.Principal, error) {
	if who.Pseudonyms == "" {
		return who, nil
	}
	name := unassigned + "@" + who.Pseudonyms
	err := a.db.View(func(tx store.Tx) error {
		known, err := tx.Get(personKey(who.Issuer, who.SAN.Value))
		if known != nil {
			name = string(known)
		}
		return err
	})
	if err != nil {
		return who, unavailable(ErrRecord, err)
	}
	return who.As(name), nil
}

// assign draws a pseudonym for who where there is none, recorded and durable before any certificate has it.
func (a *Authority) assign(ctx context.Context, who identity.Principal) (identity.Principal, error) {
	named, err := a.nameOf(who)
	if err != nil || who.Pseudonyms == "" || !strings.HasPrefix(named.SAN.Value, unassigned+"@") {
		return named, err
	}
	lot := make([]byte, 16)
	if _, err := rand.Read(lot); err != nil {
		return who, unavailable(ErrRecord, err)
	}
	person := Person{Issuer: who.Issuer, Identity: who.SAN.Value, Since: a.refusals.now().UTC(),
		Pseudonym: strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(lot)) + "@" + who.Pseudonyms}
	value, err := json.Marshal(person)
	if err != nil {
		return who, err
	}
	e := audit.Event{Actor: person.Pseudonym, Action: pseudonymAction, Object: person.Pseudonym, Outcome: audit.Success, Detail: map[string]string{"issuer": who.Issuer}}
	_, err = a.audit.Add(ctx, e, func(tx store.Tx) error {
		key := personKey(who.Issuer, who.SAN.Value)
		if had, err := tx.Get(key); err != nil || had != nil {
			return errors.Join(err, store.ErrConflict) // a request beside this one was first
		}
		if err := tx.Put(key, []byte(person.Pseudonym)); err != nil {
			return err
		}
		return tx.Put(join(pseudonymPrefix, []byte(person.Pseudonym)), value)
	})
	switch {
	case errors.Is(err, store.ErrConflict):
		return a.nameOf(who)
	case err != nil:
		return who, unavailable(ErrRecord, err)
	}
	return who.As(person.Pseudonym), nil
}

// Reveal returns who stands behind a pseudonym, from the database alone. ErrNoPseudonym where it was given to nobody. Who calls it records
// that first.
func Reveal(db store.DB, pseudonym string) (p Person, err error) {
	err = db.View(func(tx store.Tx) error {
		p, err = readPerson(tx, strings.ToLower(pseudonym))
		return err
	})
	return p, err
}

// PseudonymOf returns the pseudonym that a person of an issuer has; ErrNoPseudonym where it has none.
func PseudonymOf(db store.DB, issuer, id string) (p Person, err error) {
	err = db.View(func(tx store.Tx) error {
		name, err := tx.Get(personKey(issuer, id))
		if err != nil {
			return err
		}
		if name == nil {
			return fmt.Errorf("%w: nothing was issued to this identity of %s under a pseudonym", ErrNoPseudonym, clip(issuer))
		}
		p, err = readPerson(tx, string(name))
		return err
	})
	return p, err
}

func readPerson(tx store.Tx, pseudonym string) (p Person, err error) {
	if len(pseudonym) > 512 { // longer than any key
		return p, fmt.Errorf("%w: %q", ErrNoPseudonym, clip(pseudonym))
	}
	value, err := tx.Get(join(pseudonymPrefix, []byte(pseudonym)))
	switch {
	case err != nil:
		return p, err
	case value == nil:
		return p, fmt.Errorf("%w: %q", ErrNoPseudonym, clip(pseudonym))
	}
	if err := json.Unmarshal(value, &p); err != nil {
		return p, fmt.Errorf("reading the register of pseudonyms: %w", err)
	}
	return p, nil
}
