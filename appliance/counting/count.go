// Package counting counts verdicts in a page of metrics that a collector of text files reads: redoubt_verify_total by result and reason.
//
// Processes that count at once wait for each other, and whoever reads sees the page before or after. Start at Verdict.
package counting

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"redoubt.internal/appliance/policy"
	"redoubt.internal/appliance/verify"
)

// Labels of the counter: result, and reasons beside the ids of package verify.
const (
	Accepted   = "allowed"
	Refused    = "refused"
	ByPolicy   = "policy"     // accepted by a rule of a policy
	ByIdentity = "identity"   // accepted for its identity
	ByKey      = "key"        // accepted for its key
	Unanswered = "unanswered" // refused, since it could not be looked at
)

// The counter of verdicts.
const (
	Total = "redoubt_verify_total"
	Help  = "What was judged, by result and the reason of a refusal."
)

const (
	maxPage  = 4 << 20         // bytes of a page of metrics
	lockWait = 5 * time.Second // for another process that counts in the same folder
)

// Verdict adds one to redoubt_verify_total in a page of metrics for a collector of text files, and leaves the rest of the page as it is. Processes that
// count at once wait for each other; whoever reads sees the page before or after.
func Verdict(path, result, reason string) error {
	return Locked(path, func() error {
		families, err := ReadPage(path)
		if err != nil {
			return err
		}
		family := families[Total]
		if family == nil {
			family = &dto.MetricFamily{Name: proto.String(Total), Help: proto.String(Help), Type: dto.MetricType_COUNTER.Enum()}
			families[Total] = family
		}
		if family.GetType() != dto.MetricType_COUNTER {
			return fmt.Errorf("%s in %s is no counter", Total, path)
		}
		counter(family, result, reason).Value = proto.Float64(counter(family, result, reason).GetValue() + 1)
		return writePage(path, families)
	})
}

// DecisionLabels are result and reason of a policy's decision: of a refusal the first reason against the first thing that did not verify, where nothing did.
func DecisionLabels(d policy.Decision) (result, reason string) {
	switch {
	case d.Allow:
		return Accepted, ByPolicy
	case d.Code == verify.ExitCode(verify.ErrDenied):
		return Refused, verify.ReasonID(verify.ErrDenied)
	case len(d.Verified()) == 0 && len(d.Refused) > 0 && len(d.Refused[0].Reasons) > 0:
		return Refused, d.Refused[0].Reasons[0].ID
	}
	return Refused, verify.ReasonID(verify.ErrPolicy)
}

// counter is the series of these labels, a new one where there is none.
func counter(family *dto.MetricFamily, result, reason string) *dto.Counter {
	for _, m := range family.GetMetric() {
		has := map[string]string{}
		for _, l := range m.GetLabel() {
			has[l.GetName()] = l.GetValue()
		}
		if has["result"] == result && has["reason"] == reason && m.GetCounter() != nil {
			return m.GetCounter()
		}
	}
	m := &dto.Metric{Counter: &dto.Counter{}, Label: []*dto.LabelPair{{Name: proto.String("reason"), Value: proto.String(reason)}, {Name: proto.String("result"), Value: proto.String(result)}}}
	family.Metric = append(family.Metric, m)
	return m.GetCounter()
}

// ReadPage is what stands in a page of metrics; nothing where there is none.
func ReadPage(path string) (map[string]*dto.MetricFamily, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return map[string]*dto.MetricFamily{}, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxPage+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxPage {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxPage)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	return parser.TextToMetricFamilies(bytes.NewReader(data))
}

// writePage puts a page in the place of the one before.
func writePage(path string, families map[string]*dto.MetricFamily) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // nothing, once it has its name
	var page bytes.Buffer
	for _, name := range sortedNames(families) {
		if _, err := expfmt.MetricFamilyToText(&page, families[name]); err != nil {
			f.Close()
			return err
		}
	}
	_, err = f.Write(page.Bytes())
	if err := errors.Join(err, f.Chmod(0o644), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

func sortedNames(families map[string]*dto.MetricFamily) (names []string) {
	for name := range families {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Locked runs what reads and writes a page while no other process of ours does, for the whole folder of it: a lock of its own would lie about there.
func Locked(path string, do func() error) error {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close() // lets go of it
	for until := time.Now().Add(lockWait); ; time.Sleep(10 * time.Millisecond) {
		switch err := unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
		case err == nil:
			return do()
		case !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(until):
			return fmt.Errorf("waiting for who writes beside %s: %w", path, err)
		}
	}
}
