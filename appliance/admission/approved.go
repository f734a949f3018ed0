package admission

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"redoubt.internal/ca/approval"
)

// ReplacePolicy is the kind of act by which people put another policy in force.
const ReplacePolicy = "admission.policy"

// maxPolicyWait is how long after it was proposed a policy is taken.
const maxPolicyWait = 7 * 24 * time.Hour

const maxPolicyRecord = 16 << 20

// PolicyAct is what people approve of a policy: its digest, and when it was proposed.
func PolicyAct(domain, reason string, text []byte, at time.Time) (approval.Act, error) {
	return approval.ParseAct([]byte(approval.Act{Kind: ReplacePolicy, Domain: domain, Lines: policyLines(reason, text, at)}.Text()))
}

func policyLines(reason string, text []byte, at time.Time) []string {
	return []string{"reason " + approval.Value(reason), "proposed " + at.UTC().Format(time.RFC3339), fmt.Sprintf("policy sha256 %x", sha256.Sum256(text))}
}

// heldPolicy is the policy that was approved last, in DIR/policy.json.
type heldPolicy struct {
	Text     []byte    `json:"text"`
	Proposed time.Time `json:"proposed"`      // of its act; of the first one when it was taken
	Act      string    `json:"act,omitempty"` // SHA-256 of its text; none of the first one
	By       []string  `json:"by,omitempty"`
}

// HoldPolicy returns the text of the policy that is in force in dir, of a gate whose policy file holds text: the first one it ever sees, and
// another once enough people approved that, by an act proposed after the one before and within a week. Until then the former one is
// returned, and held is true.
func HoldPolicy(p People, dir string, text []byte, now time.Time, logger *slog.Logger) (inForce []byte, held bool, err error) {
	file := filepath.Join(dir, "policy.json")
	var was heldPolicy
	data, err := os.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return text, false, keepPolicy(file, heldPolicy{Text: text, Proposed: now.UTC()})
	case err == nil && len(data) > maxPolicyRecord:
		err = fmt.Errorf("larger than %d bytes", maxPolicyRecord)
	case err == nil:
		err = json.Unmarshal(data, &was)
	}
	if err != nil {
		return nil, false, fmt.Errorf("reading which policy was approved, %s: %w", file, err)
	}
	if slices.Equal(was.Text, text) {
		return text, false, nil
	}
	who := &people{among: p.Approvers, domain: p.Domain, dir: p.Dir, logger: logger}
	var next *heldPolicy
	err = who.each(func(_ string, act approval.Act, by []string, err error) {
		if act.Kind != ReplacePolicy || act.Domain != p.Domain || err != nil || len(act.Lines) != 3 {
			return
		}
		stamp, _ := strings.CutPrefix(act.Lines[1], "proposed ")
		at, err := time.Parse(time.RFC3339, stamp)
		if err == nil && at.After(was.Proposed) && now.Sub(at) <= maxPolicyWait && act.Lines[2] == policyLines("", text, at)[2] {
			next = &heldPolicy{text, at, act.Digest(), by}
		}
	})
	if err != nil {
		return nil, false, err
	}
	if next == nil {
		return was.Text, true, nil
	}
	logger.Warn("another policy was approved", "act", next.Act, "by", next.By)
	return text, false, keepPolicy(file, *next)
}

func keepPolicy(file string, h heldPolicy) error {
	data, err := json.Marshal(h)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o750); err != nil {
		return err
	}
	if err := writeDurably(file, data); err != nil {
		return fmt.Errorf("keeping which policy is in force: %w", err)
	}
	return nil
}
