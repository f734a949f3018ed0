package main

import (
	"testing"
	"time"

	"redoubt.internal/mirror"
)

func TestProgressLines(t *testing.T) {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	var a pace
	for _, step := range []struct {
		p     mirror.Progress
		after time.Duration
		want  string
	}{
		{mirror.Progress{Stage: "received"}, 0, "received"},
		{mirror.Progress{Stage: "pull", Origin: "log.example", Done: 64, Total: 1064}, 1 * time.Second, "pull log.example: 64 of 1064"},
		{mirror.Progress{Stage: "pull", Origin: "log.example", Done: 64, Total: 1064}, 2 * time.Second, "pull log.example: 64 of 1064"},
		{mirror.Progress{Stage: "pull", Origin: "log.example", Done: 264, Total: 1064}, 11 * time.Second, "pull log.example: 264 of 1064, 20.0/s, 40s left"},
		{mirror.Progress{Stage: "pull", Origin: "other.example", Done: 1, Total: 2}, 12 * time.Second, "pull other.example: 1 of 2"},
		{mirror.Progress{Stage: "pull", Origin: "other.example", Done: 2, Total: 2}, 14 * time.Second, "pull other.example: 2 of 2, 0.5/s, 0s left"},
	} {
		if got := a.line(step.p, start.Add(step.after)); got != step.want {
			t.Errorf("%q instead of %q", got, step.want)
		}
	}
}
