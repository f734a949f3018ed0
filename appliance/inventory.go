package main

import (
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"redoubt.internal/ca/ceremony"
	"redoubt.internal/hsm"
)

// keyEntry is one key: its life, and what its token says of it.
type keyEntry struct {
	// Name is the role for its first key, role-2 and on after rotations; a log's key has the log's name.
	Name string `json:"name"`
	// State is active, announced (listed in the trusted root, not signing yet), planned, or retired.
	State string `json:"state"`
	// UsedBy is what signs with it.
	UsedBy string `json:"usedBy"`
	// Since is when the key was made, as far as it is on record.
	Since time.Time `json:"since,omitzero"`
	// Until is when it ends; left out where nothing ends it.
	Until time.Time `json:"until,omitzero"`
	// UntilWhat ends it: certificate, window (of a retired key) or metadata.
	UntilWhat string `json:"untilWhat,omitempty"`
	// Certificate is the file of its certificate chain.
	Certificate string `json:"certificate,omitempty"`
	// Attestation is the file of its token's attestation, see keys attest.
	Attestation string `json:"attestation,omitempty"`
	// AlarmDays is 90, 30 or 7 once fewer days are left.
	AlarmDays int `json:"alarmDays,omitempty"`
	// Error is why the key does not open; what follows is then what is on record.
	Error string `json:"error,omitempty"`
	keyRecord
}

// users says what signs with the keys of a role.
var users = map[string]string{
	roleRoot: "ceremonies", roleIssuing: "fulcio: certificates", roleCT: "ct: certificate timestamps, heads", roleAudit: "audit: heads", roleTSA: "tsa: timestamps",
	roleTUF: "tuf: trust repository", roleOIDC: "oidc: identity tokens", roleExporter: "mirror: parcels",
}

func usedBy(role string) string {
	if shardNumber(role) > 0 {
		return "rekor: heads, entry timestamps"
	}
	if isMirrorRole(role) {
		return "mirror: trust repository of " + strings.TrimPrefix(role, roleMirrorPrefix)
	}
	return users[role]
}

// listKeys is the inventory: every key of every role, those of the past and of the next rotation too. A key that does not open is
// listed with the reason.
var listKeys = verb[struct{}, []keyEntry]{"keys.list", func(ctx context.Context, in *instance, _ string, _ struct{}) (entries []keyEntry, err error) {
	made, ends := in.ceremonyTimes(), in.endings()
	h := in.onRecord()
	for _, k := range slices.Concat(in.instances(), in.mirroredInstances()) {
		if !in.parts.opens(k.Name) {
			continue
		}
		e := keyEntry{Name: k.Name, State: k.State, UsedBy: usedBy(k.Role), Since: k.Made, Until: k.End, keyRecord: keyRecord{Role: k.Role}}
		if t, ok := made[k.Name]; ok {
			e.Since = t
		}
		if !k.End.IsZero() {
			e.UntilWhat = "window"
		}
		for _, end := range ends {
			if end.name == k.Name {
				e.Until, e.UntilWhat = end.at, end.what
				e.AlarmDays = alarm(alarmDays, end.at, in.now())
			}
		}
		if chain := in.chainFile(k.Role, h.find(k.Name)); chain != "" {
			e.Certificate = in.dir.resolve(chain)
		}
		if path := in.dir.pki(k.Name + ".attestation.json"); fileExists(path) {
			e.Attestation = path
		}
		key, err := in.keys.signer(ctx, k.URI)
		if err == nil {
			e.Info = key.Info()
		} else {
			e.Error = err.Error()
			e.URI, e.Algorithm, e.Kind = redactURI(k.URI), k.Algorithm, kindOf(k.URI)
		}
		entries = append(entries, e)
	}
	return entries, nil
}}

// instances are all keys in the order they are listed in, those without a rotation as the active key of their role.
func (in *instance) instances() (all []keyInstance) {
	h := in.onRecord()
	for _, role := range in.cfg.Keys.roles() {
		if k := h.find(role); k != nil && k.Role != role {
			continue // listed after the log it follows
		}
		if known := h.of(role); len(known) > 0 {
			all = append(all, known...)
			continue
		}
		state := stateActive
		if in.frozen(role) {
			state = stateRetired
		}
		all = append(all, keyInstance{Name: role, Role: role, State: state, URI: in.cfg.Keys.Roles[role]})
	}
	return all
}

// mirroredInstances are the keys that were made when a mirrored trust repository was first published.
func (in *instance) mirroredInstances() (all []keyInstance) {
	in.mirrored.mu.Lock()
	defer in.mirrored.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(in.mirrored.open)) {
		role := roleMirrorPrefix + name
		if _, configured := in.cfg.Keys.Roles[role]; !configured {
			all = append(all, keyInstance{Name: role, Role: role, State: stateActive, URI: keyURI(in.cfg.Keys.Token, role)})
		}
	}
	return all
}

// chainFile is where the certificates of a role's key stand; k is its record, nil for one that was never rotated.
func (in *instance) chainFile(role string, k *keyInstance) string {
	switch {
	case k != nil:
		return k.Chain
	case role == roleIssuing:
		return orDefault(in.cfg.CA.Chain, "pki/ca-chain.pem")
	case role == roleTSA:
		return orDefault(in.cfg.TSA.Chain, "pki/tsa-chain.pem")
	case role == roleRoot:
		return "pki/" + ceremony.RootFile
	}
	return ""
}

func fileExists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// ceremonyTimes are the moments the first ceremony made its keys, by role; empty where its transcript is not there or does not verify.
func (in *instance) ceremonyTimes() map[string]time.Time {
	times := map[string]time.Time{}
	data, err := os.ReadFile(in.dir.pki(ceremony.TranscriptFile))
	if err != nil {
		return times
	}
	transcript, err := ceremony.Verify(data)
	if err != nil {
		in.logger.Warn("the ceremony's transcript does not verify", "error", err)
		return times
	}
	for _, k := range transcript.Keys() {
		if block, _ := pem.Decode([]byte(k.PublicKey)); block != nil {
			times[k.Role] = k.Created
		}
	}
	return times
}

// ending is when a key that is in use stops being good, and what ends it.
type ending struct {
	name, role string
	at         time.Time
	what       string
	fix        string
}

// endings are those of the keys in use, in the order of the inventory. A log's key ends with nothing but its rotation.
func (in *instance) endings() []ending {
	root := in.caChain[len(in.caChain)-1]
	h := in.history
	all := []ending{
		{roleRoot, roleRoot, root.NotAfter, "certificate", "a ceremony of kind rotate-root, while both roots are trusted"},
		{h.active(roleIssuing), roleIssuing, in.caChain[0].NotAfter, "certificate", "`redoubt ca rotate`"},
		{h.active(roleTSA), roleTSA, in.tsaChain[0].NotAfter, "certificate", "`redoubt tsa rotate`"},
		{h.active(roleTUF), roleTUF, in.tufExpiry(), "metadata", "`redoubt trust renew`; a server that runs does it by itself"},
	}
	return slices.DeleteFunc(all, func(e ending) bool { return !in.parts.runs(orDefault(keyPart(e.role), partCA)) })
}

// alarmDays are the steps in which an ending is announced; the last one is urgent.
var alarmDays = []int{7, 30, 90}

// alarm is the smallest of the steps, in days, that at lies within; 0 while it is further away than all of them.
func alarm(steps []int, at, now time.Time) int {
	for _, days := range steps {
		if at.Before(now.AddDate(0, 0, days)) {
			return days
		}
	}
	return 0
}

// endingChecks are warnings before a key in use ends. They never make an instance unready: what has ended fails by itself.
func (in *instance) endingChecks() (checks []check) {
	for _, e := range in.endings() {
		c := check{Name: "end of " + e.name, OK: true}
		if days := alarm(alarmDays, e.at, in.now()); days > 0 {
			left := max(0, int(e.at.Sub(in.now()).Hours()/24))
			c = check{Name: c.Name, Warning: true, Urgent: days == alarmDays[0], Fix: e.fix,
				Reason: fmt.Sprintf("its %s ends on %s, in %d days; alarms are at 90, 30 and 7", e.what, e.at.UTC().Format(time.DateOnly), left)}
		}
		checks = append(checks, c)
	}
	return checks
}

// registerEndings puts ages and endings on the metrics page. The label is the role, which a rotation does not change.
func (s *server) registerEndings() {
	find := func(role string) (end ending, age time.Duration) {
		in := s.instance()
		all := in.endings()
		end = all[slices.IndexFunc(all, func(e ending) bool { return e.role == role })]
		since := in.firstTrust()
		switch role {
		case roleIssuing:
			since = in.caChain[0].NotBefore
		case roleTSA:
			since = in.tsaChain[0].NotBefore
		default:
			if k := in.history.find(end.name); k != nil {
				since = k.Made
			}
		}
		return end, in.now().Sub(since)
	}
	for _, e := range s.instance().endings() {
		label := map[string]string{"role": e.role}
		s.metrics.labelled("redoubt_trust_expiry_seconds", "Seconds until the key in use ends.", label, func() float64 {
			end, _ := find(e.role)
			return end.at.Sub(s.instance().now()).Seconds()
		})
		s.metrics.labelled("redoubt_trust_age_seconds", "Seconds since trust in the key in use began.", label, func() float64 {
			_, age := find(e.role)
			return age.Seconds()
		})
		s.metrics.labelled("redoubt_trust_alarm_days", "90, 30 or 7 once fewer days are left, 0 before.", label, func() float64 {
			end, _ := find(e.role)
			return float64(alarm(alarmDays, end.at, s.instance().now()))
		})
	}
	if !s.instance().parts.runs(partTSA) {
		return
	}
	s.metrics.gauge("timestamp_authority_certificate_valid_days_remaining", "Days until the timestamp certificate ends.", func() float64 {
		end, _ := find(roleTSA)
		return end.at.Sub(s.instance().now()).Hours() / 24
	})
}

// checkKeys lets every key sign once. Of a retired key only a log's is needed, for what it signs when it is read.
var checkKeys = verb[struct{}, []check]{"keys.check", func(ctx context.Context, in *instance, _ string, _ struct{}) (checks []check, err error) {
	made := slices.DeleteFunc(in.instances(), func(k keyInstance) bool { return k.State == statePlanned || !in.parts.opens(k.Name) })
	checks = eachKey(made, func(k keyInstance) check {
		key, err := in.keys.signer(ctx, k.URI)
		if err == nil {
			err = key.Check(ctx)
		}
		c := result("key "+k.Name, err, "see the token at "+redactURI(k.URI)+"; the URI stands under keys.roles."+k.Role+" or in pki/instances.json")
		c.Warning = err != nil && k.State == stateRetired
		if err == nil {
			c.Detail = tokenDetail(key.Info())
		}
		return c
	})
	return append(checks, in.endingChecks()...), nil
}}

// tokenDetail tells which algorithms a key's token was found to have, "" where it was not asked.
func tokenDetail(info hsm.Info) string {
	if len(info.TokenAlgorithms) == 0 {
		return ""
	}
	return fmt.Sprintf("%s; its token has %v", info.Algorithm, info.TokenAlgorithms)
}

// printKeys writes two lines for each key.
func printKeys(w io.Writer, entries []keyEntry) {
	for _, k := range entries {
		where := "hardware claimed"
		switch {
		case k.Software:
			where = "software"
		case k.Kind == "vault" || k.Kind == "plugin":
			where = "key service"
		}
		life := k.State
		if !k.Since.IsZero() {
			life += " since " + k.Since.UTC().Format(time.DateOnly)
		}
		if !k.Until.IsZero() {
			life += ", until " + k.Until.UTC().Format(time.DateOnly) + " (" + k.UntilWhat + ")"
		}
		if k.AlarmDays > 0 {
			life += fmt.Sprintf(", LESS THAN %d DAYS LEFT", k.AlarmDays)
		}
		fmt.Fprintf(w, "%-9s %-11s %-16s %s  %s\n          %s; %s\n", k.Name, k.Algorithm, where, k.Fingerprint[:min(16, len(k.Fingerprint))], k.URI, k.UsedBy, life)
		if k.Error != "" {
			fmt.Fprintf(w, "          DOES NOT OPEN: %s\n", k.Error)
		}
	}
}
