package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protodelim"
	"redoubt.internal/appliance/cmdline"
)

// FuzzMetricsOfRoles: what a role sends as its numbers is read whole or refused, and read again when it is written again.
func FuzzMetricsOfRoles(f *testing.F) {
	families, err := newMetrics().registry.Gather()
	if err != nil {
		f.Fatal(err)
	}
	var whole bytes.Buffer
	for _, family := range families {
		if _, err := protodelim.MarshalTo(&whole, family); err != nil {
			f.Fatal(err)
		}
	}
	if got, err := parseMetrics(whole.Bytes()); err != nil || len(got) != len(families) {
		f.Fatalf("%d of %d families, %v", len(got), len(families), err)
	}
	f.Add(whole.Bytes())
	f.Add(whole.Bytes()[:whole.Len()-1])
	f.Add([]byte("\xff\xff\xff\xff\xff\xff\xff\xff\x7f")) // longer than any memory
	f.Fuzz(func(t *testing.T, text []byte) {
		families, err := parseMetrics(text)
		if err != nil {
			return
		}
		var again bytes.Buffer
		for _, family := range families {
			if _, err := protodelim.MarshalTo(&again, family); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := parseMetrics(again.Bytes()); err != nil || len(got) != len(families) {
			t.Fatalf("%d of %d families, %v", len(got), len(families), err)
		}
	})
}

// TestStatusOfRoles: a role that is down, or does not answer in time, is a check that fails; one that refuses is an error.
func TestStatusOfRoles(t *testing.T) {
	where, err := placeOf(&Config{}, readStatus.name, nil)
	if err != nil {
		t.Fatal(err)
	}
	refused := error(nil)
	ask := func(part string) ([]byte, error) {
		switch part {
		case partTSA:
			return nil, errNoServer
		case partLog:
			return nil, cmdline.Unavailable(errors.New("no answer in time"))
		case partTrust:
			if refused != nil {
				return nil, refused
			}
		}
		return json.Marshal(statusReport{Domain: "d", Checks: []check{{Name: "clock", OK: part != partConsole}}})
	}
	whole, err := where.gather(ask)
	if err != nil {
		t.Fatal(err)
	}
	var report statusReport
	if err := json.Unmarshal(whole, &report); err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, c := range report.Checks {
		found[c.Name] = c.Reason
		if c.OK {
			found[c.Name] = "ok"
		}
	}
	if found["role ca"] != "ok" || found["clock"] != "" || report.Ready || found["role tsa"] != errRoleDown.Error() || !strings.Contains(found["role log"], "no answer in time") {
		t.Errorf("%v", found)
	}
	refused = errStranger
	if _, err := where.gather(ask); !errors.Is(err, errStranger) {
		t.Errorf("a refusal: %v", err)
	}
}
