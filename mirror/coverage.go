package mirror

import (
	"cmp"
	"errors"
	"slices"
	"time"

	"redoubt.internal/log/store"
	"redoubt.internal/mirror/entry"
	"redoubt.internal/mirror/images"
	"redoubt.internal/mirror/inventory"
	"redoubt.internal/mirror/parcel"
)

// Coverage of what runs: of each image digest of an inventory, which entries of the mirrored logs and of the local one say that somebody
// signed it. An entry is a log's word that a signature with that key over that digest was handed in; whether the signer is one of
// yours is a policy's question, which `redoubt verify` answers from the bundle.

// How an image stands.
const (
	CoverSigned     = "signed"      // an entry names it, or names a statement about it
	CoverUnsigned   = "unsigned"    // no entry does, and every log that was searched is held whole
	CoverNotCarried = "not-carried" // no entry does, but of some log only a part is held, or was read: it may be there
	CoverUnresolved = "unresolved"  // it runs without the digest of a manifest
)

// ImageSignature is an entry that says an image was signed. Its JSON form is stable.
type ImageSignature struct {
	Log        string    `json:"log"` // origin of a mirrored log, or "local " and the name of one of ours
	Index      uint64    `json:"index"`
	Kind       string    `json:"kind"`
	Identities []string  `json:"identities"` // of the certificate; none where a key signed
	Issuer     string    `json:"issuer,omitempty"`
	Key        string    `json:"key"`                 // SHA-256 of its PEM, as logs index keys
	Signed     time.Time `json:"signed,omitzero"`     // start of the certificate's validity
	Statement  string    `json:"statement,omitempty"` // digest of the statement about the image, where the entry names that
}

// CoveredImage says how one running digest stands. Its JSON form is stable.
type CoveredImage struct {
	Digest     string           `json:"digest"`
	Names      []string         `json:"names,omitempty"` // where it runs, the first of them
	Places     int              `json:"places"`          // how often it runs
	State      string           `json:"state"`           // signed, unsigned or not-carried
	Signatures []ImageSignature `json:"signatures"`      // the first of them
	More       bool             `json:"more,omitempty"`  // there are more
}

// SearchedLog says where signatures were looked for. Its JSON form is stable.
type SearchedLog struct {
	Log   string `json:"log"`
	Size  uint64 `json:"size"`
	Whole bool   `json:"whole"` // every entry is held, so that what is not found is not there
}

// InventoryRead says what was read of one inventory. Its JSON form is stable.
type InventoryRead struct {
	Path   string    `json:"path"`
	Time   time.Time `json:"modified,omitzero"` // of the file
	Images int       `json:"images"`
	Ended  int       `json:"ended_pods,omitempty"`
	Error  string    `json:"error,omitempty"` // why it could not be read
}

// CoverageReport says of what runs how much is signed in a log that is held here. Its JSON form is stable.
type CoverageReport struct {
	Time        time.Time              `json:"time"`
	Inventories []InventoryRead        `json:"inventories"`
	Logs        []SearchedLog          `json:"logs"`
	Digests     int                    `json:"digests"` // different ones that run
	Signed      int                    `json:"signed"`
	Unsigned    int                    `json:"unsigned"`
	NotCarried  int                    `json:"not_carried"`
	Unresolved  int                    `json:"unresolved"` // containers without the digest of a manifest
	Plain       []inventory.Unresolved `json:"unresolved_containers,omitempty"`
	Images      []CoveredImage         `json:"images"` // in a reconcile report only the first that are not signed
}

// Ratio is the share of digests that is signed; ok is false where nothing runs, or an inventory could not be read.
func (r *CoverageReport) Ratio() (share float64, ok bool) {
	if r == nil || r.Digests == 0 || slices.ContainsFunc(r.Inventories, func(i InventoryRead) bool { return i.Error != "" }) {
		return 0, false
	}
	return float64(r.Signed) / float64(r.Digests), true
}

// Bounds of an answer.
const (
	maxSignatures = 8   // of one image
	maxUncovered  = 100 // images in a reconcile report
)

const keyCoverage = "mirror/reconcile/coverage" // CoverageReport of the last reconcile, without images

// SignaturesOf reads who signed a digest by an entry, or a statement of that digest about an image. What does not sign it gives none: another
// digest, or a statement that has the image among its materials alone.
func SignaturesOf(log string, r Record, image, statement string) (out []ImageSignature) {
	f, err := entry.Read(r.Leaf)
	if err != nil {
		return nil
	}
	about := cmp.Or(statement, image)
	if statement == "" && (f.Kind == "intoto" || f.Kind == "dsse") { // such an entry's digests are of the statement and of all that it names
		x, err := entry.ParseExtra(r.Extra)
		if err != nil || !inventory.Names(x.Attestation, image) {
			return nil
		}
	} else if !slices.Contains(f.Digests, about) {
		return nil
	}
	for _, s := range f.Signers {
		out = append(out, ImageSignature{
			Log: log, Index: r.Index, Kind: f.Kind + " " + f.APIVersion, Identities: append([]string{}, s.Identities[:min(len(s.Identities), maxHitNames)]...),
			Issuer: s.Issuer, Key: s.Key, Signed: s.NotBefore, Statement: statement,
		})
	}
	return out
}

// Cover is how an image stands by the signatures that were found of it in logs.
func Cover(i inventory.Image, found []ImageSignature, logs []SearchedLog) CoveredImage {
	c := CoveredImage{Digest: i.Digest, Names: i.Names, Places: i.Places, State: CoverSigned, Signatures: append([]ImageSignature{}, found[:min(len(found), maxSignatures)]...), More: len(found) > maxSignatures}
	switch {
	case len(found) > 0:
	case slices.ContainsFunc(logs, func(l SearchedLog) bool { return !l.Whole }):
		c.State = CoverNotCarried
	default:
		c.State = CoverUnsigned
	}
	return c
}

// Add takes an image into the report.
func (r *CoverageReport) Add(c CoveredImage) {
	r.Digests++
	switch c.State {
	case CoverSigned:
		r.Signed++
	case CoverUnsigned:
		r.Unsigned++
	case CoverNotCarried:
		r.NotCarried++
	}
	r.Images = append(r.Images, c)
}

// short is the report as a reconcile report holds it.
func (r *CoverageReport) short() *CoverageReport {
	if r == nil {
		return nil
	}
	s := *r
	s.Images = []CoveredImage{}
	for _, c := range r.Images {
		if c.State != CoverSigned && len(s.Images) < maxUncovered {
			c.Names = c.Names[:min(len(c.Names), 2)]
			s.Images = append(s.Images, c)
		}
	}
	s.Plain = s.Plain[:min(len(s.Plain), maxUncovered)]
	return &s
}

// StatementsAbout returns which signed statements about images were carried here, as inventory.Statements does from files.
func (m *Mirror) StatementsAbout(wanted []string) (map[string][]string, error) {
	carried, err := m.Images()
	if err != nil {
		return nil, err
	}
	of := make(map[string][]string)
	for _, i := range carried {
		for _, a := range i.Artifacts {
			if a.Kind == images.KindImage || !slices.Contains(wanted, a.Subject) && !slices.Contains(wanted, i.Digest) {
				continue
			}
			for _, b := range a.Blobs {
				data, err := m.Blob(b.Digest)
				if errors.Is(err, ErrNotFound) {
					continue
				}
				if err != nil {
					return nil, err
				}
				digests, named := inventory.Statement(data)
				for _, image := range named {
					if slices.Contains(wanted, image) {
						of[image] = append(of[image], digests...)
					}
				}
			}
		}
	}
	for image, digests := range of {
		slices.Sort(digests)
		of[image] = slices.Compact(digests)
	}
	return of, nil
}

// SignatureLogs are the mirrored logs in which signatures stand: all but those of certificates and of checksums. One that is configured and
// that nothing was carried of counts as held in part.
func (m *Mirror) SignatureLogs() ([]SearchedLog, error) {
	s, err := m.snapshot()
	if err != nil {
		return nil, err
	}
	var out []SearchedLog
	for _, l := range m.status(s, nil).Logs {
		if known := m.log(l.Origin); known != nil && (known.Layout == "sumdb" || known.Layout == layoutStaticCT) {
			continue
		}
		_, held := s.heads[l.Origin]
		out = append(out, SearchedLog{l.Origin, l.Size, held && l.Scope == parcel.ScopeFull})
	}
	return out, nil
}

// cover asks how what runs is covered and remembers the figures. Nil where no inventory is configured.
func (m *Mirror) cover(r *CoverageReport) (*CoverageReport, error) {
	r = r.short()
	if r == nil {
		return nil, nil
	}
	figures := *r
	figures.Images, figures.Plain = []CoveredImage{}, nil
	return r, full(m.c.DB.Update(func(tx store.Tx) error { return put(tx, keyCoverage, figures) }))
}
