package mirror

import (
	"crypto"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	commonv1 "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	rootv1 "github.com/sigstore/protobuf-specs/gen/pb-go/trustroot/v1"
	"google.golang.org/protobuf/encoding/protojson"

	"redoubt.internal/mirror/freshness"
	"redoubt.internal/mirror/parcel"
)

const (
	// maxTrustedRoot is the longest trusted_root.json in bytes.
	maxTrustedRoot = 4 << 20
	// trustedRootName is the target that says whom to believe.
	trustedRootName = "trusted_root.json"
)

// TrustedLog is a log of a trusted root. Its JSON form is stable.
type TrustedLog struct {
	Kind     string    `json:"kind"`   // "rekor", or "ct" for certificate logs
	Origin   string    `json:"origin"` // host of the base URL, for certificate logs with its path
	BaseURL  string    `json:"base_url"`
	ID       string    `json:"log_id"` // hex
	Key      string    `json:"key"`    // SHA-256 of the SubjectPublicKeyInfo, hex
	Start    time.Time `json:"start,omitzero"`
	End      time.Time `json:"end,omitzero"`
	Unusable string    `json:"unusable,omitempty"` // why no checkpoint of a tiled log can be verified by it

	vkey string
}

// TrustedAuthority is a certificate or timestamp authority of a trusted root. Its JSON form is stable.
type TrustedAuthority struct {
	Kind        string    `json:"kind"` // "ca", "tsa"
	URI         string    `json:"uri"`
	Subject     string    `json:"subject"`
	Certificate string    `json:"certificate"` // SHA-256 of the first certificate of the chain, hex
	Start       time.Time `json:"start,omitzero"`
	End         time.Time `json:"end,omitzero"`
}

// trusted is what a trusted root says.
type trusted struct {
	logs        []TrustedLog
	authorities []TrustedAuthority
}

// readTrusted reads a trusted_root.json. The caller has verified the file: whoever writes it decides whom this mirror believes.
func readTrusted(data []byte) (trusted, error) {
	var t trusted
	if len(data) > maxTrustedRoot {
		return t, fmt.Errorf("%w: a trusted root of %d bytes", ErrConfig, len(data))
	}
	var root rootv1.TrustedRoot
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(data, &root); err != nil {
		return t, fmt.Errorf("%w: reading the trusted root: %v", ErrConfig, err)
	}
	for _, kind := range []struct {
		name string
		logs []*rootv1.TransparencyLogInstance
	}{{"rekor", root.GetTlogs()}, {"ct", root.GetCtlogs()}} {
		for _, l := range kind.logs {
			log, err := trustedLog(kind.name, l)
			if err != nil {
				return t, err
			}
			t.logs = append(t.logs, log)
		}
	}
	for _, a := range root.GetCertificateAuthorities() {
		t.authorities = append(t.authorities, trustedAuthority("ca", a))
	}
	for _, a := range root.GetTimestampAuthorities() {
		t.authorities = append(t.authorities, trustedAuthority("tsa", a))
	}
	return t, nil
}

func trustedLog(kind string, l *rootv1.TransparencyLogInstance) (TrustedLog, error) {
	u, err := url.Parse(l.GetBaseUrl())
	if err != nil || u.Hostname() == "" {
		return TrustedLog{}, fmt.Errorf("%w: a log with base URL %.200q", ErrConfig, l.GetBaseUrl())
	}
	raw := l.GetPublicKey().GetRawBytes()
	out := TrustedLog{
		Kind: kind, Origin: strings.ToLower(u.Hostname()), BaseURL: strings.TrimSuffix(l.GetBaseUrl(), "/"), ID: hex.EncodeToString(l.GetLogId().GetKeyId()),
		Key: parcel.Sum(raw).String(),
	}
	out.Start, out.End = window(l.GetPublicKey().GetValidFor())
	if kind == "ct" {
		out.Origin += strings.TrimSuffix(u.EscapedPath(), "/")
	}
	var pub crypto.PublicKey
	if pub, err = x509.ParsePKIXPublicKey(raw); err == nil {
		name := parcel.VerifierKey
		if kind == "ct" {
			name = parcel.CTVerifierKey
		}
		out.vkey, err = name(out.Origin, pub)
	}
	if err != nil {
		out.Unusable = err.Error()
	}
	return out, nil
}

func trustedAuthority(kind string, a *rootv1.CertificateAuthority) TrustedAuthority {
	out := TrustedAuthority{Kind: kind, URI: a.GetUri(), Subject: strings.Trim(a.GetSubject().GetOrganization()+" "+a.GetSubject().GetCommonName(), " ")}
	if chain := a.GetCertChain().GetCertificates(); len(chain) > 0 {
		out.Certificate = parcel.Sum(chain[0].GetRawBytes()).String()
	}
	out.Start, out.End = window(a.GetValidFor())
	return out
}

func window(r *commonv1.TimeRange) (start, end time.Time) {
	if s := r.GetStart(); s != nil {
		start = s.AsTime()
	}
	if e := r.GetEnd(); e != nil {
		end = e.AsTime()
	}
	return start, end
}

// items names everything that is trusted, for good, with its validity.
func (t trusted) items() map[string]string {
	out := make(map[string]string)
	for _, l := range t.logs {
		out[fmt.Sprintf("%s log %s, key %.16s", l.Kind, l.Origin, l.Key)] = validity(l.Start, l.End)
	}
	for _, a := range t.authorities {
		out[fmt.Sprintf("%s %s, certificate %.16s", a.Kind, a.URI, a.Certificate)] = validity(a.Start, a.End)
	}
	return out
}

// configs are the transparency logs that can be mirrored, one per origin. A log with two keys has the one that began last; the other
// is a former one.
func (t trusted) configs() []LogConfig { return t.configsOf("rekor") }

func (t trusted) configsOf(kind string) (logs []LogConfig) {
	byStart := slices.Clone(t.logs)
	slices.SortStableFunc(byStart, func(a, b TrustedLog) int { return b.Start.Compare(a.Start) })
	for _, l := range byStart {
		if l.Kind != kind || l.Unusable != "" {
			continue
		}
		if i := slices.IndexFunc(logs, func(c LogConfig) bool { return c.Origin == l.Origin }); i >= 0 {
			if logs[i].VKey != l.vkey {
				logs[i].FormerKeys = append(logs[i].FormerKeys, l.vkey)
			}
			continue
		}
		logs = append(logs, LogConfig{Origin: l.Origin, VKey: l.vkey, BaseURL: l.BaseURL, NotBefore: l.Start, NotAfter: l.End})
	}
	return logs
}

// LogsOf returns the transparency logs of a trusted_root.json that can be mirrored, by origin: the host of baseUrl, as Rekor v2
// names its logs (contract: origin = host name). Logs with keys that no checkpoint of a tiled log uses are left out, with the
// reason in skipped. The caller has verified the file.
func LogsOf(trustedRoot []byte) (logs []LogConfig, skipped map[string]string, err error) {
	t, err := readTrusted(trustedRoot)
	if err != nil {
		return nil, nil, err
	}
	skipped = make(map[string]string)
	for _, l := range t.logs {
		if l.Kind == "rekor" && l.Unusable != "" {
			skipped[l.Origin] = l.Unusable
		}
	}
	return t.configs(), skipped, nil
}

// Follow has the logs that an imported trusted root names mirrored, whichever they are: a new shard needs no configuration.
type Follow struct {
	// TUF is the name of the repository.
	TUF string
	// Scope of the logs, as LogConfig.
	Scope string
	// Except are hosts that are not followed.
	Except []string
	// MaxAge and Stale are those of the logs.
	MaxAge time.Duration
	Stale  freshness.Thresholds
}

// followed are the logs of a trusted root that a rule takes.
func (f Follow) followed(t trusted) (logs []LogConfig) {
	for _, c := range t.configs() {
		if slices.Contains(f.Except, c.Origin) {
			continue
		}
		c.Scope, c.MaxAge, c.Stale, c.Followed = f.Scope, f.MaxAge, f.Stale, f.TUF
		c.Source = c.BaseURL + "/api/v2" // where Rekor v2 serves its tiles
		logs = append(logs, c)
	}
	return logs
}

// explain gives a log that is believed by a trusted root the key that it names for the log's host. A shard of Rekor v1 is called
// "<host> - <number>" and shares its key with the others.
func (t trusted) explain(c LogConfig) (LogConfig, bool) {
	host, _ := shardHost(c.Origin)
	for _, k := range append(t.configs(), t.configsOf("ct")...) {
		if k.Origin == host {
			c.VKey, c.FormerKeys, c.NotBefore = k.VKey, k.FormerKeys, k.NotBefore
			if host == c.Origin {
				c.NotAfter = k.NotAfter
			}
			return c, true
		}
	}
	return c, false
}

// shardHost cuts the number of a Rekor v1 shard off an origin.
func shardHost(origin string) (host string, shard bool) {
	host, tree, ok := strings.Cut(origin, " - ")
	if !ok || tree == "" || len(tree) > 20 || strings.Trim(tree, "0123456789") != "" {
		return origin, false
	}
	return host, true
}
