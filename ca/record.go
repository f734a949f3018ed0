package ca

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"redoubt.internal/ca/denied"
	"redoubt.internal/log/store"
)

// The register of certificates, in the store:
//
//	ca/floor                               the highest issuing time, see clock.go
//	ca/cert/<moment><20 octets serial>     state octet, then DER:
//	                                         'i' intent: the linted precertificate, under a throwaway signature
//	                                         'c' issued: the certificate
//	ca/serial/<20 octets serial>           moment: where the certificate is
//	ca/name/<32 octets SHA-256 of SAN><moment><20 octets serial>   empty
//	ca/use/<8 octets seconds of expiry><32 octets token>           32-octet SHA-256 of each key served
//
// A moment is 8 octets of seconds, notBefore since 1970, and 4 octets that count
// the intents of a process; older records have the seconds alone, and are read as
// they are. All numbers are big-endian, so that keys sort by time, and what one
// transaction writes lies together: serial numbers are random, and a second of
// them would spread each batch over all pages of that second.
const (
	prefix       = "ca/"
	certPrefix   = prefix + "cert/"
	serialPrefix = prefix + "serial/"
	namePrefix   = prefix + "name/"
	usePrefix    = prefix + "use/"
)

// States of a serial.
const (
	// StateIntent: recorded before signing; no outcome was recorded.
	StateIntent = "intent"
	// StateIssued: signed, logged and handed out.
	StateIssued = "issued"
)

// place is where the certificate of s is kept.
func (s *signable) place() []byte { return join(certPrefix, s.moment(), serialBytes(s.serial)) }

// moment is notBefore as keys hold it, and the turn of s.
func (s *signable) moment() []byte {
	m := binary.BigEndian.AppendUint64(make([]byte, 0, 12), uint64(s.notBefore.Unix()))
	return binary.BigEndian.AppendUint32(m, s.turn)
}

// putIntent writes the intent of one certificate and its search keys. It runs
// inside the audit event's transaction, perhaps more than once. turns counts the
// intents in the order they are written; it may begin anew at any time, for
// serial numbers tell certificates apart.
func putIntent(tx store.Tx, s *signable, turns *atomic.Uint32) error {
	if s.turn == 0 {
		s.turn = turns.Add(1)
	}
	serial := join(serialPrefix, serialBytes(s.serial))
	if old, err := tx.Get(serial); err != nil {
		return err
	} else if old != nil {
		return errors.New("serial number was drawn before")
	}
	if err := countUse(tx, s); err != nil {
		return err
	}
	if err := tx.Put(serial, s.moment()); err != nil {
		return err
	}
	if err := tx.Put(s.place(), append([]byte{'i'}, s.shell...)); err != nil {
		return err
	}
	name := sha256.Sum256([]byte(s.who.SAN.Value))
	if err := tx.Put(join(namePrefix, name[:], s.moment(), serialBytes(s.serial)), []byte{}); err != nil {
		return err
	}
	return raiseFloor(tx, s.notBefore)
}

// putCertificate replaces the intent of s by its certificate.
func putCertificate(tx store.Tx, s *signable, leaf []byte) error {
	old, err := tx.Get(s.place())
	if err != nil {
		return err
	}
	if len(old) == 0 || old[0] != 'i' {
		return errors.New("certificate has no intent")
	}
	return tx.Put(s.place(), append([]byte{'c'}, leaf...))
}

// countUse refuses a token that obtained its number of certificates, and forgets
// tokens that expired. A retry with a key already served does not count.
func countUse(tx store.Tx, s *signable) error {
	who := s.who
	if who.TokenUses == 0 {
		return nil
	}
	spki := sha256.Sum256(s.spki)
	id, err := hex.DecodeString(who.TokenID)
	if err != nil {
		return err
	}
	key := join(usePrefix, binary.BigEndian.AppendUint64(nil, uint64(who.Expiry.Unix())), id)
	served, err := tx.Get(key)
	if err != nil {
		return err
	}
	for rest := served; len(rest) >= 32; rest = rest[32:] {
		if bytes.Equal(rest[:32], spki[:]) {
			return nil
		}
	}
	if len(served)/32 >= who.TokenUses {
		return fmt.Errorf("%w: its issuer allows %d certificates", ErrTokenUsed, who.TokenUses)
	}
	if err := tx.Put(key, append(bytes.Clone(served), spki[:]...)); err != nil {
		return err
	}
	// An hour covers every skew; two per use keep the list short.
	var old [][]byte
	limit := join(usePrefix, binary.BigEndian.AppendUint64(nil, uint64(s.notBefore.Add(-time.Hour).Unix())))
	err = tx.Scan([]byte(usePrefix), limit, func(k, _ []byte) bool {
		old = append(old, bytes.Clone(k))
		return len(old) < 2
	})
	for _, k := range old {
		if err := tx.Delete(k); err != nil {
			return err
		}
	}
	return err
}

func serialBytes(n *big.Int) []byte { return n.FillBytes(make([]byte, 20)) }

func join(p string, parts ...[]byte) []byte {
	return append([]byte(p), bytes.Join(parts, nil)...)
}

// Query selects certificates. Serial alone, or Identity, Since and Until.
type Query struct {
	// Serial is a serial number in hex, colons allowed.
	Serial string
	// Identity is the exact subject alternative name: an address, a URI, user!domain; of the profile notation the subject, as a Record has it.
	Identity string
	// Since and Until bound notBefore, both inclusive; zero is open.
	Since, Until time.Time
	// Limit is the most records returned; 0 is 100, the newest.
	Limit int
}

// maxQuery is the most records one search returns.
const maxQuery = 10_000

// Record is one serial of the register.
type Record struct {
	Serial    string    `json:"serial"` // 40 hex digits
	State     string    `json:"state"`  // StateIntent or StateIssued
	Identity  string    `json:"identity"`
	Issuer    string    `json:"issuer"`
	NotBefore time.Time `json:"notBefore"`
	NotAfter  time.Time `json:"notAfter"`
	// Certificate is DER: the certificate when issued, else the linted
	// precertificate, which the issuing key may or may not have signed.
	Certificate []byte `json:"certificate"`
}

// ErrQuery: the query cannot be read.
var ErrQuery = errors.New("search for certificates")

// Search returns the records of q, newest first. It needs the database alone, so
// it also works while nothing is served.
func Search(ctx context.Context, db store.DB, q Query) ([]Record, error) {
	if q.Limit == 0 {
		q.Limit = 100
	}
	if q.Limit < 0 || q.Limit > maxQuery {
		return nil, fmt.Errorf("%w: limit %d is not between 1 and %d", ErrQuery, q.Limit, maxQuery)
	}
	var records []Record
	err := db.View(func(tx store.Tx) error {
		places, err := find(ctx, tx, q)
		if err != nil {
			return err
		}
		records = make([]Record, 0, len(places))
		for _, p := range places {
			v, err := tx.Get(join(certPrefix, p))
			if err != nil {
				return err
			}
			r, err := readRecord(v)
			if err != nil {
				return fmt.Errorf("reading certificate %x: %w", p, err)
			}
			records = append(records, r)
		}
		return nil
	})
	return records, err
}

// find returns where the certificates of q are, moment and serial, newest first.
func find(ctx context.Context, tx store.Tx, q Query) ([][]byte, error) {
	if q.Serial != "" {
		n, ok := new(big.Int).SetString(strings.ReplaceAll(strings.ToLower(q.Serial), ":", ""), 16)
		if !ok || n.Sign() <= 0 || n.BitLen() > 160 {
			return nil, fmt.Errorf("%w: serial %.60q is not a hex number of at most 160 bits", ErrQuery, q.Serial)
		}
		moment, err := tx.Get(join(serialPrefix, serialBytes(n)))
		if err != nil || moment == nil {
			return nil, err
		}
		return [][]byte{join("", moment, serialBytes(n))}, nil
	}
	base := []byte(certPrefix)
	if q.Identity != "" {
		name := sha256.Sum256([]byte(q.Identity))
		base = join(namePrefix, name[:])
	}
	from, to := uint64(0), uint64(1)<<63
	if !q.Since.IsZero() {
		from = uint64(max(0, q.Since.Unix()))
	}
	if !q.Until.IsZero() {
		to = uint64(max(0, q.Until.Unix())) + 1
	}
	if from >= to {
		return nil, nil
	}
	// Scans ascend only: the last Limit of them are kept in a ring.
	ring, n := make([][]byte, q.Limit), 0
	err := tx.Scan(binary.BigEndian.AppendUint64(bytes.Clone(base), from), binary.BigEndian.AppendUint64(bytes.Clone(base), to), func(k, _ []byte) bool {
		ring[n%q.Limit] = bytes.Clone(k[len(base):])
		n++
		return ctx.Err() == nil
	})
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, err
	}
	out := make([][]byte, 0, min(n, q.Limit))
	for i := n - 1; i >= 0 && i >= n-q.Limit; i-- {
		out = append(out, ring[i%q.Limit])
	}
	return out, nil
}

// readRecord decodes a value of ca/cert/.
func readRecord(v []byte) (Record, error) {
	if len(v) == 0 {
		return Record{}, errors.New("it is not there")
	}
	cert, err := x509.ParseCertificate(v[1:])
	if err != nil {
		return Record{}, err
	}
	r := Record{
		Serial: serialHex(cert.SerialNumber), State: StateIntent, Identity: subjectName(cert),
		NotBefore: cert.NotBefore, NotAfter: cert.NotAfter, Certificate: bytes.Clone(v[1:]),
	}
	if v[0] == 'c' {
		r.State = StateIssued
	}
	for _, e := range cert.Extensions {
		if e.Id.String() == "1.3.6.1.4.1.57264.1.1" {
			r.Issuer = string(e.Value)
		}
	}
	if r.Identity == "" && len(cert.Subject.Names) > 0 {
		r.Identity, r.Issuer = cert.Subject.String(), denied.Notation
	}
	return r, nil
}

// subjectName reads the one SAN.
func subjectName(c *x509.Certificate) string {
	if len(c.EmailAddresses) == 1 {
		return c.EmailAddresses[0]
	}
	if len(c.URIs) == 1 {
		return c.URIs[0].String()
	}
	for _, e := range c.Extensions {
		if e.Id.String() != "2.5.29.17" {
			continue
		}
		in := cryptobyte.String(e.Value)
		var names, other, text cryptobyte.String
		tag0 := cbasn1.Tag(0).ContextSpecific().Constructed()
		if in.ReadASN1(&names, cbasn1.SEQUENCE) && names.ReadASN1(&other, tag0) && other.SkipASN1(cbasn1.OBJECT_IDENTIFIER) && other.ReadASN1(&text, tag0) && text.ReadASN1(&text, cbasn1.UTF8String) {
			return string(text)
		}
	}
	return ""
}
