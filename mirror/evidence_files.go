package mirror

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"redoubt.internal/mirror/parcel"
)

// EvidenceFile is one file of evidence that the mirror keeps. Its JSON form is stable.
type EvidenceFile struct {
	Name    string `json:"name"` // below the mirror's folder
	SHA256  string `json:"sha256"`
	Origin  string `json:"origin"`
	Parcel  string `json:"parcel,omitempty"`  // what brought it
	Problem string `json:"problem,omitempty"` // why it does not stand by itself, "" when it does
	Data    []byte `json:"-"`
}

const maxEvidenceFile = 1 << 20

// Evidence lists the files of evidence, each verified by the log's key as it is known now, and where an enclave's word is part of it by
// the keys of the enclaves that are pinned here.
func (m *Mirror) Evidence() ([]EvidenceFile, error) { return m.side().evidence() }

// Evidence is that of the outside end.
func (e *Exporter) Evidence() ([]EvidenceFile, error) { return e.side().evidence() }

func (s side) evidence() ([]EvidenceFile, error) {
	out := []EvidenceFile{}
	names, err := fs.Glob(s.root.FS(), "evidence/*.json")
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		f, err := s.root.Open(name)
		if err != nil {
			return nil, err
		}
		data, err := io.ReadAll(io.LimitReader(f, maxEvidenceFile+1))
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, fmt.Errorf("reading %s: %w", name, err)
		}
		out = append(out, readEvidence(name, data, s.log, s.claimants))
	}
	return out, nil
}

// readEvidence says what a file proves.
func readEvidence(name string, data []byte, log func(string) *knownLog, claimants []string) EvidenceFile {
	e := EvidenceFile{Name: name, SHA256: parcel.Sum(data).String(), Data: data}
	var claimed struct{ Origin, Parcel string }
	if err := json.Unmarshal(data, &claimed); err != nil {
		e.Problem = "it does not read: " + oneLine(err)
		return e
	}
	e.Origin, e.Parcel = claimed.Origin, claimed.Parcel
	known := log(e.Origin)
	if known == nil {
		e.Problem = ErrUnknownOrigin.Error()
		return e
	}
	if _, err := CheckEvidence(data, known.LogConfig, claimants...); err != nil {
		e.Problem = oneLine(err)
	}
	return e
}
