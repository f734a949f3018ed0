package ca

import (
	"context"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"redoubt.internal/ca/identity"
	"redoubt.internal/log/audit"
)

// Refusals are recorded as they come, up to a rate: whoever sends garbage must
// not be able to fill the audit log. What was left out is counted in the next
// record, so that the log shows that, and how many.
const (
	refusalsPerSecond = 2
	refusalsBurst     = 50
	refusalTimeout    = 5 * time.Second
)

type refusals struct {
	now     func() time.Time
	unknown *rate.Limiter // of requesters nobody vouches for
	known   *rate.Limiter // of verified identities
	left    *atomic.Int64 // refusals not recorded since the last record
}

func newRefusals(now func() time.Time) refusals {
	return refusals{
		now: now, left: new(atomic.Int64),
		unknown: rate.NewLimiter(refusalsPerSecond, refusalsBurst),
		known:   rate.NewLimiter(refusalsPerSecond, refusalsBurst),
	}
}

// refuse records that a request was refused and why. The refusal stands whether
// or not it can be recorded.
func (a *Authority) refuse(ctx context.Context, who *identity.Principal, cause error) {
	limiter := a.refusals.unknown
	e := audit.Event{Actor: "unknown", Action: action, Outcome: audit.Refused, Detail: map[string]string{"reason": clip(cause.Error())}}
	if who != nil {
		limiter = a.refusals.known
		e.Actor = who.SAN.Value
		e.Detail["issuer"], e.Detail["subject"] = who.Issuer, who.Subject
	}
	a.logger.WarnContext(ctx, "certificate refused", "actor", e.Actor, "error", cause)
	if !limiter.AllowN(a.refusals.now(), 1) {
		a.refusals.left.Add(1)
		return
	}
	if n := a.refusals.left.Swap(0); n > 0 {
		e.Detail["not_recorded"] = strconv.FormatInt(n, 10)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), refusalTimeout)
	defer cancel()
	if _, err := a.audit.Add(ctx, e, nil); err != nil {
		a.logger.ErrorContext(ctx, "recording refusal", "error", err)
	}
}

// describe is one certificate for the audit log.
func describe(s *signable) audit.Event {
	e := audit.Event{
		Actor: s.who.SAN.Value, Action: action, Object: serialHex(s.serial),
		Detail: map[string]string{
			"issuer": s.who.Issuer, "subject": s.who.Subject, "token": s.who.TokenID,
			"not_before": s.notBefore.Format(time.RFC3339), "not_after": s.notAfter.Format(time.RFC3339),
			"public_key_sha256": hexSum(s.spki), "tbs_sha256": hexSum(s.tbs),
		},
	}
	if s.who.Pseudonyms != "" {
		delete(e.Detail, "token") // a digest of the name, among what can be guessed
	}
	return e
}

// clip bounds a text for a record.
func clip(s string) string {
	const limit = 500
	if len(s) > limit {
		return s[:limit] + "..."
	}
	return s
}
