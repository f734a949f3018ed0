package main

import (
	"strings"
	"testing"
	"time"

	"redoubt.internal/ca/tsa"
	"redoubt.internal/mirror"
)

// TestTextIsForPeople: no structure of the program shows in what people read.
func TestTextIsForPeople(t *testing.T) {
	at := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	step := mirror.TransferStep{Origin: "rekor.outside.example", Scope: "full", From: 3, To: 5, Root: "abc"}
	var clock, imported, pulled strings.Builder
	printTSAStatus(&clock, tsa.Status{Now: at, Last: at, Reserved: at.Add(time.Minute), NotAfter: at.AddDate(1, 0, 0)})
	printTransfers(&imported, mirror.Report{Stream: "outside.example", Transfers: []mirror.Transfer{{Sequence: 7, Outcome: "committed", Exporter: "exporter.outside.example", Created: at, Logs: []mirror.TransferStep{step}}}})
	printSteps(&pulled, []mirror.PullStep{{TransferStep: step, Fetched: 1}, {TransferStep: step, Error: "no route"}})
	for text, want := range map[string]string{
		clock.String():    "clock        2026-11-20T12:00:00Z\n",
		imported.String(): "parcel 7 of outside.example, committed, made 2026-11-20T12:00:00Z by exporter.outside.example\n  rekor.outside.example: from 3 to 5 entries, root abc\n",
		pulled.String():   "FAILED: no route\n",
	} {
		if !strings.Contains(text, want) || strings.ContainsAny(text, "{}\"") {
			t.Errorf("%s\nlacks %q, or is not text", text, want)
		}
	}
}
