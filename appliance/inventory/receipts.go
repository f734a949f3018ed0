package inventory

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"redoubt.internal/appliance/policy"
	"redoubt.internal/log/strictjson"
)

// Bounds of a folder of receipts.
const (
	maxReceipts = 10_000
	maxReceipt  = 32 << 20 // bytes of a file
)

// ReadReceipts reads the attestations in a folder, *.json, by the digests of which each speaks. Nothing in them is believed: the policy judges them.
func ReadReceipts(dir string) (map[string][]policy.Evidence, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("reading the receipts: %w", err)
	}
	if len(files) > maxReceipts {
		return nil, fmt.Errorf("%d receipts in %s, at most %d are read", len(files), dir, maxReceipts)
	}
	out := map[string][]policy.Evidence{}
	for _, file := range files {
		data, err := readFile(file)
		if err != nil {
			return nil, fmt.Errorf("reading the receipts: %w", err)
		}
		for _, e := range policy.SplitBundles(filepath.Base(file), data) {
			digests, err := subjects(e.Bundle)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", file, err)
			}
			for _, d := range digests {
				out[d] = append(out[d], e)
			}
		}
	}
	return out, nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxReceipt+1))
	if err == nil && len(data) > maxReceipt {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxReceipt)
	}
	return data, err
}

// subjects are the digests, sha256:HEX, that an attestation in a bundle names.
func subjects(bundle []byte) (all []string, err error) {
	var b struct {
		Envelope struct {
			Payload []byte `json:"payload"`
		} `json:"dsseEnvelope"`
	}
	var s struct {
		Subject []struct {
			Digest map[string]string `json:"digest"`
		} `json:"subject"`
	}
	for _, step := range []struct {
		data func() []byte
		into any
	}{{func() []byte { return bundle }, &b}, {func() []byte { return b.Envelope.Payload }, &s}} {
		if err := strictjson.Check(step.data(), strictjson.Limits{Bytes: maxReceipt, Depth: 64, Values: 1_000_000}); err != nil {
			return nil, fmt.Errorf("no attestation in a bundle: %w", err)
		}
		if err := json.Unmarshal(step.data(), step.into); err != nil {
			return nil, fmt.Errorf("no attestation in a bundle: %w", err)
		}
	}
	for _, one := range s.Subject {
		if hex := one.Digest["sha256"]; hex != "" {
			all = append(all, "sha256:"+hex)
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("an attestation that names no SHA-256")
	}
	return all, nil
}
