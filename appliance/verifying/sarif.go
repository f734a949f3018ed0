package verifying

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/appliance/policy"
	"redoubt.internal/appliance/verify"
)

// Parts of SARIF 2.1.0 (OASIS Standard, errata 01) in which a verdict is told: one run, a rule for each reason of a refusal, a result for each
// reason there is or one that passes. The verdict itself, in its own schema, is a property of the run.
type sarifLog struct {
	Schema  string     `json:"$schema"`
	Version string     `json:"version"`
	Runs    []sarifRun `json:"runs"`
}

type sarifRun struct {
	Tool        sarifTool         `json:"tool"`
	Invocations []sarifInvocation `json:"invocations"`
	Artifacts   []sarifArtifact   `json:"artifacts"`
	Results     []sarifResult     `json:"results"`
	Properties  map[string]any    `json:"properties"` // verdict: what -o json prints
}

type sarifTool struct {
	Driver sarifDriver `json:"driver"`
}

type sarifDriver struct {
	Name    string      `json:"name"`
	Version string      `json:"version"`
	Rules   []sarifRule `json:"rules"`
}

type sarifRule struct {
	ID         string         `json:"id"`
	Short      sarifText      `json:"shortDescription"`
	Properties map[string]int `json:"properties"` // exitCode
}

type sarifText struct {
	Text string `json:"text"`
}

type sarifInvocation struct {
	Successful bool `json:"executionSuccessful"` // false: there is no verdict
	ExitCode   int  `json:"exitCode"`
}

type sarifArtifact struct {
	Location sarifURI          `json:"location"`
	Hashes   map[string]string `json:"hashes,omitempty"`
}

type sarifURI struct {
	URI string `json:"uri"`
}

type sarifLocation struct {
	Physical struct {
		Artifact struct {
			URI   string `json:"uri"`
			Index int    `json:"index"`
		} `json:"artifactLocation"`
	} `json:"physicalLocation"`
}

type sarifResult struct {
	RuleID     string            `json:"ruleId"`
	RuleIndex  int               `json:"ruleIndex"`
	Kind       string            `json:"kind"`  // pass or fail
	Level      string            `json:"level"` // error; note for evidence that does not count; warning for knowledge that is old; none for what passes
	Message    sarifText         `json:"message"`
	Locations  []sarifLocation   `json:"locations"`
	Properties map[string]string `json:"properties,omitempty"` // root, source
}

const (
	sarifSchema = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
	rulePass    = "verified"
)

// sarif collects the run of one artifact.
type sarif struct {
	run   sarifRun
	index map[string]int // of rules, by their ids
	uri   string
}

func newSARIF(operand string, code int, verdict any) *sarif {
	s := &sarif{index: map[string]int{}, uri: URIOf(operand)}
	s.run.Tool.Driver = sarifDriver{Name: "redoubt"}
	rules := append([]verify.Reason{{ID: rulePass, Reason: "everything that was asked for verified"}}, verify.ReasonIDs()...)
	for i, r := range rules {
		s.index[r.ID] = i
		s.run.Tool.Driver.Rules = append(s.run.Tool.Driver.Rules, sarifRule{r.ID, sarifText{r.Reason}, map[string]int{"exitCode": r.Code}})
	}
	judged := code == cmdline.ExitOK || code >= verify.ExitCode(verify.ErrNoSignature) && code != cmdline.ExitPanic
	s.run.Invocations = []sarifInvocation{{judged, code}}
	s.run.Artifacts = []sarifArtifact{{Location: sarifURI{s.uri}}}
	s.run.Results = []sarifResult{}
	s.run.Properties = map[string]any{"verdict": verdict}
	return s
}

// URIOf is an operand of verify as a URI reference (RFC 3986).
func URIOf(operand string) string {
	scheme, _, found := strings.Cut(operand, ":")
	if found && (strings.HasPrefix(scheme, "sha") || scheme == "oci" || strings.Contains(scheme, "-") && !strings.Contains(scheme, "/")) {
		return (&url.URL{Scheme: scheme, Opaque: (&url.URL{Path: operand[len(scheme)+1:]}).EscapedPath()}).String()
	}
	return (&url.URL{Path: operand}).String()
}

// hash says what the artifact's digest is, ALGORITHM:HEX, in the names that SARIF has for algorithms.
func (s *sarif) hash(digest string) {
	if algorithm, hex, ok := strings.Cut(digest, ":"); ok && hex != "" && strings.HasPrefix(algorithm, "sha") {
		s.run.Artifacts[0].Hashes = map[string]string{strings.Replace(algorithm, "sha", "sha-", 1): hex}
	}
}

func (s *sarif) add(id, kind, level, message string, properties map[string]string) {
	at := sarifLocation{}
	at.Physical.Artifact.URI = s.uri
	s.run.Results = append(s.run.Results, sarifResult{id, s.index[id], kind, level, sarifText{message}, []sarifLocation{at}, properties})
}

func (s *sarif) reasons(level, source string, all []verify.Reason) {
	for _, r := range all {
		where := map[string]string{}
		if r.Root != "" {
			where["root"] = r.Root
		}
		if from := cmp.Or(r.Source, source); from != "" {
			where["source"] = from
		}
		s.add(r.ID, "fail", level, r.Detail, where)
	}
}

func (s *sarif) warnings(results ...*verify.Result) {
	for _, r := range results {
		for _, warning := range r.Warnings() {
			s.add("stale", "fail", "warning", warning, map[string]string{"root": r.Root()})
		}
	}
}

// print writes the log to stdout, in its place for -o sarif.
func (s *sarif) print(c *cli.Context) error {
	s.run.Tool.Driver.Version = c.App.Version
	out, err := json.MarshalIndent(sarifLog{sarifSchema, "2.1.0", []sarifRun{s.run}}, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding the result: %w", err)
	}
	_, err = fmt.Fprintf(c.App.Writer, "%s\n", out)
	return err
}

// sarifResultOf tells of what verified.
func sarifResultOf(operand string, r *verify.Result) *sarif {
	s := newSARIF(operand, cmdline.ExitOK, r)
	s.hash(r.Artifact())
	san, _ := r.Signer()
	s.add(rulePass, "pass", "none", fmt.Sprintf("signed by %s under root %s", cmp.Or(san, "key "+r.Key()), r.Root()), map[string]string{"root": r.Root()})
	s.warnings(r)
	return s
}

// sarifFailure tells of a refusal.
func sarifFailure(operand string, f verify.Failure) *sarif {
	s := newSARIF(operand, f.Code, f)
	if f.Artifact != nil {
		s.hash(f.Artifact.String())
	}
	s.reasons("error", "", f.Reasons)
	return s
}

// sarifDecision tells of a decision by a policy.
func sarifDecision(operand string, d policy.Decision) *sarif {
	s := newSARIF(operand, d.Code, d)
	s.hash(d.Artifact)
	id, kind, level := rulePass, "pass", "none"
	if !d.Allow {
		id, kind, level = verify.ReasonID(d.Err()), "fail", "error"
	}
	for _, reason := range d.Reasons {
		s.add(id, kind, level, reason, map[string]string{"policyRule": d.Rule})
	}
	for _, r := range d.Refused {
		s.reasons("note", r.Source, r.Reasons)
	}
	s.warnings(d.Results...)
	return s
}
