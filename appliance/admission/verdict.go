package admission

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"redoubt.internal/appliance/verify"
	"redoubt.internal/mirror/images"
)

// verdict is why an image may run.
type verdict struct {
	Digest string
	Rule   string    // of the policy
	Signer string    // what was found, for people
	By     string    // what let it in where that is not the policy
	Stale  time.Time // trust is too old and was fresh then last; zero: it is fresh
	Until  time.Time // this lets it in no longer than until then
	Shaky  string    // what is known of the logs and roots that it rests on and is not as it should be
}

// note is what who asked is told of an image that passes; "" where all is as it should be.
func (v verdict) note() string {
	switch {
	case !v.Stale.IsZero():
		return fmt.Sprintf("admitted by the receipt of an earlier admission: trust was fresh last on %s; refused from %s", v.Stale.Format(time.RFC3339), v.Until.Format(time.RFC3339))
	case !v.Until.IsZero():
		return fmt.Sprintf("admitted by %s until %s", v.By, v.Until.Format(time.RFC3339))
	}
	return v.Shaky
}

// brokeGlass tells whether people let the image in against the policy.
func (v verdict) brokeGlass() bool { return v.By != "" && !v.Until.IsZero() }

// String says it in one line.
func (v verdict) String() string {
	if v.By != "" {
		return v.By
	}
	return fmt.Sprintf("rule %q, %s", v.Rule, v.Signer)
}

// refusal is one place of an object and why it is refused; the place is zero where that is the object.
type refusal struct {
	use use
	err error
}

// conclude writes the answer: it passes where nothing is refused, or where the namespace's mode lets it.
func (g *Gate) conclude(r *request, out response, refused []refusal, started time.Time) response {
	mode := g.mode(r.Namespace)
	out.Allowed = len(refused) == 0 || mode != Enforce
	decision := "allowed"
	if len(refused) > 0 {
		decision = map[Mode]string{Enforce: "refused", Warn: "warned", Audit: "audited"}[mode]
		var why []string
		for _, f := range refused {
			text := f.err.Error()
			if f.use.image != "" {
				text = fmt.Sprintf("%s: image %.300q: %s", f.use.where, f.use.image, text)
			}
			if text = oneLine(text); !slices.Contains(why, text) {
				why = append(why, text)
			}
		}
		message := strings.Join(why, "; ")
		out.AuditAnnotations["refused"] = message
		switch mode {
		case Enforce:
			out.Patch, out.PatchType = nil, ""
			out.Status = &status{"Failure", "redoubt: " + message, "Forbidden", 403}
		case Warn:
			for _, text := range why {
				out.Warnings = append(out.Warnings, "redoubt would refuse this: "+text)
			}
		}
		g.report(r, decision, message)
	}
	out.AuditAnnotations["decision"] = decision
	g.metrics.reviewed(decision, g.now().Sub(started))
	return out
}

// mode is what becomes of a refusal in a namespace. What belongs to none (no kind that runs containers does) is enforced.
func (g *Gate) mode(namespace string) Mode {
	if m, ok := g.c.Modes[namespace]; ok {
		return m
	}
	return g.c.Mode
}

// maxLine is the longest line that is sent to who asks; Kubernetes cuts longer warnings where there are several.
const maxLine = 1000

func oneLine(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, text)
	if len(text) > maxLine {
		text = strings.ToValidUTF8(text[:maxLine], "") + "..."
	}
	return text
}

// annotated says what was found of each image, for the audit log of the API server.
func annotated(found map[string]finding) string {
	var lines []string
	for image, f := range found {
		what := f.verdict.String()
		if f.err != nil {
			what = f.err.Error()
		}
		lines = append(lines, oneLine(fmt.Sprintf("%.300s: %s", image, what)))
	}
	slices.Sort(lines)
	return strings.Join(lines, "; ")
}

// unanswered names the reason of an error of a registry.
func unanswered(err error) error {
	for _, own := range []error{ErrUnanswered, ErrTooMany, ErrImage, ErrRefused} {
		if errors.Is(err, own) {
			return err
		}
	}
	reason := ErrUnanswered
	switch {
	case errors.Is(err, images.ErrLimit):
		reason = ErrTooMany
	case errors.Is(err, images.ErrHost):
		reason = ErrRegistry
	}
	return fmt.Errorf("%w: %w", reason, err)
}

// reasons are the labels of what refuses, the same few for ever.
var reasons = []struct {
	err   error
	label string
}{
	{ErrRegistry, "registry"}, {ErrImage, "image"}, {ErrTooMany, "limit"}, {ErrUnpinned, "unpinned"}, {ErrStale, "stale"}, {ErrUnanswered, "unanswered"},
	{verify.ErrIdentity, "identity"}, {verify.ErrSignature, "signature"}, {verify.ErrUntrusted, "untrusted"}, {verify.ErrStale, "stale"},
	{verify.ErrLogProof, "log_proof"}, {verify.ErrTime, "time"}, {verify.ErrDenied, "denied"}, {verify.ErrMalformed, "malformed"}, {verify.ErrNoSignature, "no_signature"},
	{verify.ErrPolicy, "policy"}, {ErrRefused, "policy"}, {ErrObject, "object"},
}

func reasonOf(err error) string {
	for _, r := range reasons {
		if errors.Is(err, r.err) {
			return r.label
		}
	}
	return "internal"
}
