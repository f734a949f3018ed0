package main

import (
	"context"
	"fmt"
	"html/template"
	"io"
	"net/http"
	"time"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/log"
	"redoubt.internal/mirror"
)

// statusReport is the JSON of `redoubt status -o json`, and what the console shows.
type statusReport struct {
	Version     versionInfo       `json:"version"`
	FIPS        fipsInfo          `json:"fips"`
	Domain      string            `json:"domain"`
	Profile     string            `json:"profile"`
	Dir         string            `json:"dir"`
	Ready       bool              `json:"ready"`
	Checks      []check           `json:"checks"`
	Logs        []logInfo         `json:"logs"`
	URLs        map[string]string `json:"urls"`
	Software    bool              `json:"softwareKeys"`
	People      string            `json:"people"` // who may do what, in a sentence
	CAExpires   time.Time         `json:"caExpires"`
	TSAExpires  time.Time         `json:"tsaExpires"`
	TrustExpiry time.Time         `json:"trustExpires"`
	Counters    []log.SlowStatus  `json:"highwaterCounters,omitempty"`
	Mirror      *mirror.Status    `json:"mirror,omitempty"` // when a stream of parcels is configured
}

var readStatus = verb[struct{}, statusReport]{"status", func(ctx context.Context, in *instance, actor string, _ struct{}) (statusReport, error) {
	infos, err := logInfos.run(ctx, in, actor, struct{}{})
	if err != nil {
		return statusReport{}, err
	}
	report := statusReport{Version: readVersion(), FIPS: readFIPS(), Domain: in.cfg.Domain, Profile: in.cfg.Profile, Dir: in.dir.root, Checks: in.checks(ctx), Logs: infos,
		URLs: in.cfg.urls(), CAExpires: in.caChain[0].NotAfter, TSAExpires: in.tsaChain[0].NotAfter, TrustExpiry: in.tufExpiry()}
	for _, key := range in.roleKeys {
		report.Software = report.Software || key.Info().Software
	}
	if in.mirror != nil {
		status, err := in.mirror.Status(ctx)
		if err != nil {
			return statusReport{}, err
		}
		report.Mirror = &status
	}
	report.Counters, report.People = in.counterStatus(), in.law().peopleSays()
	report.Ready = ready(report.Checks)
	if roleOfActor(actor) != "" { // it shows them to everybody
		report.Checks = withoutKeys(report.Checks)
	}
	return report, nil
}}

// urls are the configured service URLs by name; tsa is the full timestamp URL.
func (c *Config) urls() map[string]string {
	urls := map[string]string{}
	for name, s := range c.Services.all() {
		urls[name] = s.URL
		if name == "tsa" {
			urls[name] += timestampPath
		}
	}
	return urls
}

func statusCommand() *cli.Command {
	return &cli.Command{
		Name: "status", Usage: "the state of keys, logs, certificates and trust repository; exit 3 when a check does not hold",
		Flags: append(cmdline.StateFlags(), cmdline.OutputFlag()),
		Action: func(c *cli.Context) error {
			report, err := readStatus.call(c, struct{}{})
			if err != nil {
				return err
			}
			if err := cmdline.PrintResult(c, report, report.print); err != nil {
				return err
			}
			if !report.Ready {
				return cmdline.Unavailable(fmt.Errorf("not ready"))
			}
			return nil
		},
	}
}

func (r *statusReport) print(w io.Writer) {
	fmt.Fprintf(w, "%s (%s), redoubt %s, %s\n", r.Domain, r.Profile, r.Version.Version, r.Dir)
	fmt.Fprintln(w, r.FIPS)
	if r.Software {
		fmt.Fprintln(w, "SOFTWARE KEYS: whoever copies the disk and the passphrase has the keys")
	}
	fmt.Fprintf(w, "people: %s\n", r.People)
	printChecks(w, r.Checks)
	for _, l := range r.Logs {
		fmt.Fprintf(w, "%-8s%s: %d entries\n", l.Log, l.Origin, l.Size)
	}
	for _, s := range r.Counters {
		printCounter(w, s)
	}
	fmt.Fprintf(w, "issuing certificate until %s, timestamp certificate until %s, trust repository until %s\n",
		r.CAExpires.Format(time.DateOnly), r.TSAExpires.Format(time.DateOnly), r.TrustExpiry.Format(time.RFC3339))
	if r.Mirror != nil {
		printMirrorStatus(w, r.Mirror)
	}
}

// printCounter describes one counter that binds high-water marks.
func printCounter(w io.Writer, s log.SlowStatus) {
	kind, pending := "not rewindable", "nothing signed since"
	if s.Rewindable {
		kind = "REWINDABLE: the TPM is software, whoever puts its storage back puts the counter back"
	}
	if s.Pending {
		pending = "heads signed since are not covered yet"
	}
	fmt.Fprintf(w, "high-water marks bound to %s: count %d, stored every %s, last %s, %s; %s\n", s.Name, s.Counter, s.Every, s.StoredAt.Format(time.RFC3339), pending, kind)
}

// consoleHandler shows the status as a page without script, form or outside reference.
func (s *server) consoleHandler() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		report, err := s.status(r.Context())
		if err != nil {
			http.Error(w, "the status cannot be read", http.StatusInternalServerError)
			return
		}
		report.Checks = withoutKeys(report.Checks)
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
		if err := consolePage.Execute(w, report); err != nil {
			s.logger.Debug("writing the console page", "error", err)
		}
	})
	return mux
}

var consolePage = template.Must(template.New("console").Parse(`<!doctype html><html lang="en"><meta charset="utf-8"><title>Redoubt {{.Domain}}</title>
<style>body{font:16px/1.5 sans-serif;max-width:60em;margin:2em auto}td{padding:.2em 1em .2em 0;vertical-align:top}.bad{color:#a00}code{font-size:.85em}</style>
<h1>{{.Domain}}</h1>{{if .Software}}<p class="bad">Software keys: whoever copies the disk and the passphrase has the keys.</p>{{end}}
<h2>Checks</h2><table>{{range .Checks}}<tr><td>{{.Name}}<td{{if not .OK}} class="bad"{{end}}>{{if .OK}}ok{{else}}{{.Reason}} &mdash; {{.Fix}}{{end}}{{end}}</table>
<h2>Logs</h2><table>{{range .Logs}}<tr><td>{{.Origin}}<td>{{.Size}} entries<td><code>{{.RootHash}}</code>{{end}}</table>
{{with .Mirror}}<h2>Mirror, last parcel {{.Sequence}}</h2><table>{{range .Missing}}<tr><td class="bad">parcels {{.First}} to {{.Last}} are missing{{end}}
{{range .Logs}}<tr><td>{{.Origin}}<td{{if .Frozen}} class="bad"{{end}}>{{.Size}} entries{{if .Frozen}}, frozen: it showed two histories{{end}}{{if .Lag}}, {{.Lag}} more upstream{{end}}<td{{if .Stale}} class="bad"{{end}}>{{if .Age}}observed {{.Age}} ago{{else}}never came{{end}}{{if .Stale}}: {{.Level}}{{end}}{{end}}
{{range .TUF}}<tr><td>{{.Name}}<td>root of trust<td>{{if .Age}}observed {{.Age}} ago{{else}}never came{{end}}: {{.Level}}{{end}}</table>
{{with .Absent}}{{range .Unmirrored}}<p class="bad">{{.Origin}} is named by {{.Repository}} and not mirrored</p>{{end}}{{end}}
{{with .Reconcile}}<p{{if ne .Outcome "clean"}} class="bad"{{end}}>Reconciled{{if not .Time.IsZero}} {{.Time.UTC.Format "2006-01-02 15:04:05Z"}}{{end}}: {{.Outcome}}{{with .Finding}} &mdash; {{.}}{{end}}{{with .Error}} &mdash; {{.}}{{end}}</p>{{else}}<p class="bad">Never reconciled.</p>{{end}}{{end}}
<h2>Services</h2><table>{{range $name, $url := .URLs}}<tr><td>{{$name}}<td>{{$url}}{{end}}</table></html>
`))
