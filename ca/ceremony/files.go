package ceremony

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"redoubt.internal/ca/approval"
)

// Names of the files Write makes; those of which a ceremony has nothing are left out.
const (
	RootFile         = "root.pem"                   // the root certificate
	CAChainFile      = "ca-chain.pem"               // issuing CA, root
	TSAChainFile     = "tsa-chain.pem"              // tsa, its intermediate if any, root
	PlanFile         = "ceremony-plan.yaml"         // the plan as it was carried out
	RequestsFile     = "ceremony-requests.json"     // the transcript of the online machine, to be carried to the root
	CertificatesFile = "ceremony-certificates.json" // the transcript of the offline machine, to be carried back
	RegisterFile     = "custodians.json"            // the register after the change
	TranscriptFile   = "ceremony-result.json"       // the transcript; written last
)

// ErrResultExists: the directory already holds the result of a ceremony.
var ErrResultExists = errors.New("the directory already holds a ceremony result")

// CheckFree fails with ErrResultExists when dir holds any file a ceremony ends
// with, or one of the names in also. Call it before Run, so that a ceremony
// whose result could not be written is not begun. An absent directory is free.
func CheckFree(dir string, also ...string) error {
	names := append([]string{RootFile, CAChainFile, TSAChainFile, PlanFile, RegisterFile, TranscriptFile}, also...)
	for _, role := range lone {
		names = append(names, role+".pem")
	}
	for _, name := range names {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			return fmt.Errorf("%w: %s", ErrResultExists, filepath.Join(dir, name))
		} else if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("checking for a ceremony result: %w", err)
		}
	}
	if found, err := filepath.Glob(filepath.Join(dir, "attestation-*.json")); err != nil {
		return fmt.Errorf("checking for a ceremony result: %w", err)
	} else if len(found) > 0 {
		return fmt.Errorf("%w: %s", ErrResultExists, found[0])
	}
	return nil
}

// lone are the certificates that get a file of their own.
var lone = []string{RoleSuccessor, CrossSuccessorByRoot, CrossRootByAuthority, CrossAuthorityByRoot, CrossSubjectAuthority}

// FileName is the name of the transcript: that of a part which the other side
// needs says so.
func (t *Transcript) FileName() string {
	switch t.Body.Opening.Part {
	case PartRequests:
		return RequestsFile
	case PartCertificates:
		return CertificatesFile
	}
	return TranscriptFile
}

type file struct {
	name string
	data []byte
}

// files lists what the transcript leaves, itself last.
func (t *Transcript) files() ([]file, error) {
	transcript, err := t.Encode()
	if err != nil {
		return nil, err
	}
	var out []file
	if t.Body.Opening.Part != PartRequests {
		if t.Body.Opening.Part != PartCertificates {
			out = append(out, file{PlanFile, []byte(t.Body.Opening.Plan)})
		}
		if root := t.certs[RoleRoot]; root != nil {
			out = append(out, file{RootFile, pemOf(root)})
		}
		for name, role := range map[string]string{CAChainFile: RoleIssuing, TSAChainFile: RoleTSA} {
			if chain := t.Chain(role); chain != nil {
				out = append(out, file{name, pemOf(chain...)})
			}
		}
		for _, role := range lone {
			if c := t.certs[role]; c != nil {
				out = append(out, file{role + ".pem", pemOf(c)})
			}
		}
	}
	if t.after != nil {
		data, err := t.after.Encode()
		if err != nil {
			return nil, err
		}
		out = append(out, file{RegisterFile, data})
	}
	for _, k := range t.Keys() {
		if k.Attestation != nil && t.Body.Opening.Part != PartRequests { // beside the certificates, once they are there
			data, err := approval.Encode(k.Attestation)
			if err != nil {
				return nil, err
			}
			out = append(out, file{"attestation-" + k.Role + ".json", data})
		}
	}
	slices.SortFunc(out, func(a, b file) int {
		if a.name < b.name {
			return -1
		}
		return 1
	})
	return append(out, file{t.FileName(), transcript}), nil
}

// Write puts the result into dir (made with mode 0755 if absent): certificates,
// attestations, plan, and last the transcript, which marks the result as
// complete. Each file appears whole or not at all, never replaces one, and is
// durable when Write returns. Nothing in them is secret.
func (t *Transcript) Write(dir string) error {
	files, err := t.files()
	if err != nil {
		return err
	}
	for _, f := range files {
		if _, err := os.Lstat(filepath.Join(dir, f.name)); err == nil {
			return fmt.Errorf("%w: %s", ErrResultExists, filepath.Join(dir, f.name))
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("making result directory: %w", err)
	}
	for _, f := range files {
		if err := writeNew(filepath.Join(dir, f.name), f.data); err != nil {
			return fmt.Errorf("writing %s: %w", f.name, err)
		}
	}
	return nil
}

// pemOf concatenates certificates as PEM.
func pemOf(chain ...*x509.Certificate) []byte {
	var out []byte
	for _, c := range chain {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}

// writeNew makes one durable file of mode 0644 that was not there.
func writeNew(path string, data []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".ceremony-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(tmp.Name()) }()
	_, err = tmp.Write(data)
	if err == nil {
		err = errors.Join(tmp.Chmod(0o644), tmp.Sync())
	}
	if err := errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	// A hard link fails when the name is taken; a rename would replace it.
	if err := os.Link(tmp.Name(), path); errors.Is(err, fs.ErrExist) {
		return ErrResultExists
	} else if err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
