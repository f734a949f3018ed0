package main

import (
	_ "embed"
	"encoding"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"time"

	"redoubt.internal/appliance/inventory"
	"redoubt.internal/appliance/policy"
	"redoubt.internal/appliance/verify"
	"redoubt.internal/ca"
	"redoubt.internal/ca/ceremony"
	"redoubt.internal/ca/denied"
	"redoubt.internal/ca/trust"
	"redoubt.internal/ca/tsa"
	"redoubt.internal/installer"
	"redoubt.internal/installer/backup"
	"redoubt.internal/installer/host"
	"redoubt.internal/log/audit"
	"redoubt.internal/mirror"
	"redoubt.internal/mirror/diode"
	"redoubt.internal/mirror/images"
)

// resultDoc says what one verb prints under -o json.
type resultDoc struct {
	verbs string // separated by ", "
	of    reflect.Type
	note  string
	as    reflect.Type // whose members the JSON has, where that is not of
}

// resultDocs is a row for every verb with -o json. A test holds it to the command tree and to what the verbs hand to PrintResult.
var resultDocs = []resultDoc{
	{"init", reflect.TypeFor[*initResult](), "", nil},
	{"roles apart", reflect.TypeFor[rolesResult](), "", nil},
	{"status", reflect.TypeFor[statusReport](), "", nil},
	{"doctor, keys check, preflight", reflect.TypeFor[[]check](), "", nil},
	{"identity token", reflect.TypeFor[tokenResult](), "", nil},
	{"identity deny, identity allow", reflect.TypeFor[deniedResult](), "", nil},
	{"identity list", reflect.TypeFor[denied.List](), "", nil},
	{"identity reveal", reflect.TypeFor[ca.Person](), "", nil},
	{"identity explain", reflect.TypeFor[explained](), "", nil},
	{"client setup", reflect.TypeFor[setupResult](), "", nil},
	{"sign, attest", reflect.TypeFor[signResult](), "", nil},
	{"verify", reflect.TypeFor[*verify.Result](), "exit 0", verify.ResultShape()},
	{"verify", reflect.TypeFor[verify.Failure](), "any other exit", nil},
	{"verify", reflect.TypeFor[policy.Decision](), "with --policy, allowed or denied", nil},
	{"policy init, policy import", reflect.TypeFor[policyWritten](), "", nil},
	{"policy test", reflect.TypeFor[[]policy.Tested](), "", nil},
	{"policy explain", reflect.TypeFor[[]policy.Explained](), "", nil},
	{"inventory", reflect.TypeFor[inventory.Report](), "", nil},
	{"keys list", reflect.TypeFor[[]keyEntry](), "", nil},
	{"keys attestation", reflect.TypeFor[attestationReport](), "", nil},
	{"keys seal", reflect.TypeFor[sealed](), "", nil},
	{"keys attest", reflect.TypeFor[attestResult](), "", nil},
	{"keys rotate, ca rotate, tsa rotate, trust rotate, log rotate", reflect.TypeFor[rotateResult](), "", nil},
	{"ceremony digest", reflect.TypeFor[digestResult](), "", nil},
	{"ceremony rehearse, ceremony run, ceremony sign, ceremony verify", reflect.TypeFor[*ceremonyResult](), "", nil},
	{"ceremony diff", reflect.TypeFor[ceremony.Comparison](), "", nil},
	{"ceremony register", reflect.TypeFor[registerResult](), "", nil},
	{"ca chain, tsa chain", reflect.TypeFor[[]certificateRecord](), "", nil},
	{"ca issue", reflect.TypeFor[notationIssued](), "", nil},
	{"ca issued", reflect.TypeFor[[]ca.Record](), "", nil},
	{"tsa status", reflect.TypeFor[tsa.Status](), "", nil},
	{"log info", reflect.TypeFor[[]logInfo](), "", nil},
	{"log get", reflect.TypeFor[logEntry](), "", nil},
	{"log search", reflect.TypeFor[[]logMatch](), "", nil},
	{"log proof", reflect.TypeFor[logProof](), "", nil},
	{"log fsck", reflect.TypeFor[[]fsckResult](), "", nil},
	{"audit verify", reflect.TypeFor[fsckResult](), "", nil},
	{"log mark", reflect.TypeFor[marked](), "", nil},
	{"log resume", reflect.TypeFor[resumed](), "", nil},
	{"log retire", reflect.TypeFor[retireResult](), "", nil},
	{"log resubmit", reflect.TypeFor[[]resubmitted](), "", nil},
	{"log export", reflect.TypeFor[logExport](), "", nil},
	{"log verify", reflect.TypeFor[logVerified](), "", nil},
	{"audit list", reflect.TypeFor[[]audit.Record](), "", nil},
	{"tls show, tls renew", reflect.TypeFor[tlsState](), "", nil},
	{"trust publish, trust renew, trust status", reflect.TypeFor[[]trust.RoleStatus](), "", nil},
	{"mirror key", reflect.TypeFor[keyLine](), "", nil},
	{"mirror plan", reflect.TypeFor[mirror.PlanReport](), "", nil},
	{"mirror picklist", reflect.TypeFor[picklistResult](), "", nil},
	{"mirror pull", reflect.TypeFor[mirror.PullReport](), "", nil},
	{"mirror export", reflect.TypeFor[mirror.Packed](), "", nil},
	{"mirror evidence, mirror evidence verify", reflect.TypeFor[*mirror.Evidence](), "", nil},
	{"mirror evidence list", reflect.TypeFor[evidenceResult](), "", nil},
	{"mirror evidence show", reflect.TypeFor[evidenceText](), "", nil},
	{"mirror coverage", reflect.TypeFor[*mirror.CoverageReport](), "", nil},
	{"mirror claims", reflect.TypeFor[[]mirror.EntryClaim](), "", nil},
	{"mirror watch list", reflect.TypeFor[[]mirror.Hit](), "", nil},
	{"mirror watch scan", reflect.TypeFor[mirror.WatchReport](), "", nil},
	{"mirror watch ack", reflect.TypeFor[ackResult](), "", nil},
	{"mirror unfreeze", reflect.TypeFor[mirror.Settled](), "", nil},
	{"mirror quarantine list", reflect.TypeFor[[]mirror.Quarantined](), "", nil},
	{"mirror quarantine show", reflect.TypeFor[[]mirror.QuarantineFiles](), "", nil},
	{"mirror quarantine release", reflect.TypeFor[releaseResult](), "", nil},
	{"mirror inspect", reflect.TypeFor[[]mirror.Inspection](), "", nil},
	{"mirror import", reflect.TypeFor[mirror.Report](), "", nil},
	{"mirror artifacts list", reflect.TypeFor[[]mirror.MirroredImage](), "", nil},
	{"mirror artifacts get", reflect.TypeFor[artifactsResult](), "", nil},
	{"mirror artifacts push", reflect.TypeFor[images.Pushed](), "", nil},
	{"mirror artifacts check", reflect.TypeFor[mirror.ImageReport](), "", nil},
	{"mirror fsck", reflect.TypeFor[mirrorFscked](), "", nil},
	{"mirror import, mirror receive", reflect.TypeFor[mirror.InboxReport](), "with --inbox, and of shards", nil},
	{"mirror send", reflect.TypeFor[[]diode.Sent](), "", nil},
	{"mirror media", reflect.TypeFor[[]mirror.Medium](), "", nil},
	{"mirror exporter list", reflect.TypeFor[[]mirror.ExporterStanding](), "", nil},
	{"mirror exporter announce", reflect.TypeFor[announced](), "", nil},
	{"mirror exporter accept", reflect.TypeFor[mirror.ExporterKey](), "", nil},
	{"mirror exporter continue", reflect.TypeFor[mirror.Announcement](), "", nil},
	{"mirror accept-clock", reflect.TypeFor[clockResult](), "", nil},
	{"mirror status", reflect.TypeFor[mirror.Status](), "", nil},
	{"mirror receipt, mirror heads", reflect.TypeFor[receiptResult](), "", nil},
	{"mirror receipt read", reflect.TypeFor[mirror.ReceiptReport](), "", nil},
	{"mirror compare", reflect.TypeFor[mirror.Comparison](), "", nil},
	{"mirror observed", reflect.TypeFor[[]mirror.Sighting](), "", nil},
	{"mirror trust show", reflect.TypeFor[[]trustView](), "", nil},
	{"mirror trust history", reflect.TypeFor[[]mirror.TrustChange](), "", nil},
	{"mirror trust export", reflect.TypeFor[trustExported](), "", nil},
	{"mirror reconcile", reflect.TypeFor[reconcileResult](), "", nil},
	{"approve list", reflect.TypeFor[[]waitingAct](), "", nil},
	{"approve show", reflect.TypeFor[actResult](), "", nil},
	{"approve drop", reflect.TypeFor[waitingAct](), "", nil},
	{"backup create, backup verify", reflect.TypeFor[backup.Report](), "", nil},
	{"backup key", reflect.TypeFor[custodianKey](), "", nil},
	{"backup restore", reflect.TypeFor[restoreResult](), "", nil},
	{"upgrade, uninstall", reflect.TypeFor[host.Report](), "", nil},
	{"state show, state migrate", reflect.TypeFor[stateResult](), "", nil},
	{"standby follow, standby status", reflect.TypeFor[standbyReport](), "", nil},
	{"standby promote", reflect.TypeFor[promoteResult](), "", nil},
	{"bundle build, bundle verify", reflect.TypeFor[*installer.Report](), "", nil},
	{"config reload", reflect.TypeFor[reloadResult](), "", nil},
	{"config validate", reflect.TypeFor[configVerdict](), "", nil},
	{"config show", reflect.TypeFor[map[string]any](), "redoubt.yaml as JSON; `redoubt docs config` has its keys", nil},
	{"version", reflect.TypeFor[versionInfo](), "", nil},
}

// resultComments holds the comments of the types above and of those in them, by "import path.Type" and "import path.Type.Field". A
// binary has no comments: TestResultComments writes the file from the sources (-update) and fails where it is behind them.
//
//go:embed results.json
var resultComments []byte

// resultsManual is `redoubt docs json`: every shape with its members, indented as they stand in the JSON.
func resultsManual(w io.Writer) error {
	var comments map[string]string
	if err := json.Unmarshal(resultComments, &comments); err != nil {
		return fmt.Errorf("reading the embedded comments: %w", err)
	}
	fmt.Fprint(w, "What verbs print under -o json: one value on stdout, whatever else is said goes to stderr. A member marked ? may be left out.\n")
	for _, d := range resultDocs {
		fmt.Fprintf(w, "\n%s", d.verbs)
		if d.note != "" {
			fmt.Fprintf(w, " (%s)", d.note)
		}
		shape := d.shape()
		fmt.Fprintf(w, ": %s\n", jsonKind(shape))
		p := shapePrinter{w, comments, nil}
		if inner := innermost(shape); inner.Kind() == reflect.Struct {
			if doc := comments[typeName(inner)]; doc != "" {
				fmt.Fprintf(w, "  # %s\n", doc)
			}
		}
		p.members(shape, "  ")
	}
	return nil
}

func (d resultDoc) shape() reflect.Type {
	if d.as != nil {
		return d.as
	}
	return d.of
}

type shapePrinter struct {
	w        io.Writer
	comments map[string]string
	open     []reflect.Type // structs being printed: a shape inside itself is named, not repeated
}

func (p *shapePrinter) members(t reflect.Type, indent string) {
	t = innermost(t)
	if t.Kind() != reflect.Struct || isScalar(t) {
		return
	}
	if slices.Contains(p.open, t) {
		fmt.Fprintf(p.w, "%s# as above\n", indent)
		return
	}
	p.open = append(p.open, t)
	defer func() { p.open = p.open[:len(p.open)-1] }()
	for f := range t.Fields() {
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && name == "":
			p.members(f.Type, indent)
			continue
		case !f.IsExported() || name == "-" && options == "":
			continue
		case name == "":
			name = f.Name
		}
		if strings.Contains(options, "omit") {
			name += "?"
		}
		kind := jsonKind(f.Type)
		if strings.Contains(","+options+",", ",string,") {
			kind = "string of a " + kind
		}
		fmt.Fprintf(p.w, "%s%s: %s", indent, name, kind)
		if doc := p.comments[typeName(t)+"."+f.Name]; doc != "" {
			fmt.Fprintf(p.w, "  # %s", doc)
		}
		fmt.Fprintln(p.w)
		p.members(f.Type, indent+"  ")
	}
}

// innermost is what pointers, lists and maps hold in the end.
func innermost(t reflect.Type) reflect.Type {
	for !isScalar(t) && (t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Array || t.Kind() == reflect.Map) {
		t = t.Elem()
	}
	return t
}

// isScalar reports types that are one JSON string or number whatever they are made of.
func isScalar(t reflect.Type) bool {
	return t == reflect.TypeFor[time.Time]() || t == reflect.TypeFor[time.Duration]() || isBytes(t) || marshals[json.Marshaler](t) || marshals[encoding.TextMarshaler](t)
}

func marshals[M any](t reflect.Type) bool {
	return t.Implements(reflect.TypeFor[M]()) || reflect.PointerTo(t).Implements(reflect.TypeFor[M]())
}

func isBytes(t reflect.Type) bool {
	return t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Uint8
}

// jsonKind says in words how a value of t stands in JSON.
func jsonKind(t reflect.Type) string {
	switch {
	case t.Kind() == reflect.Pointer:
		return jsonKind(t.Elem())
	case t == reflect.TypeFor[time.Time]():
		return "time, RFC 3339"
	case t == reflect.TypeFor[time.Duration]():
		return "nanoseconds"
	case marshals[json.Marshaler](t):
		return "value"
	case marshals[encoding.TextMarshaler](t):
		return "string"
	case isBytes(t):
		return "base64"
	}
	switch t.Kind() {
	case reflect.String:
		return "string"
	case reflect.Bool:
		return "true or false"
	case reflect.Slice, reflect.Array:
		return "list of " + jsonKind(t.Elem())
	case reflect.Map:
		return "object by name, each: " + jsonKind(t.Elem())
	case reflect.Struct:
		return "object"
	case reflect.Interface:
		return "any value"
	default:
		return "number"
	}
}

// typeName is how resultComments names a type. This package is main in the binary and not in its tests.
func typeName(t reflect.Type) string {
	path := t.PkgPath()
	if path == reflect.TypeFor[resultDoc]().PkgPath() {
		path = "main"
	}
	return path + "." + t.Name()
}
