package main

import "time"

// MirrorReconcile says what reconcile looks at beside what is stored. Inside only.
type MirrorReconcile struct {
	// Scrub is the time in which everything that is stored is hashed anew once (default 168h). Each reconcile checks what is new and its share of
	// the rest; `redoubt mirror reconcile --full` and `redoubt mirror fsck` check everything, and so does every reconcile where it is negative.
	Scrub Duration `yaml:"scrub,omitempty"`
	// Cadence is the time in which a parcel is expected; without one for longer reconcile ends with 50. Left out, it is derived from the parcels
	// that came, and status alone says so.
	Cadence Duration `yaml:"cadence,omitempty"`
	// Ignore are origins of logs that a carried trusted root names and that are not mirrored on purpose, as status names them.
	Ignore []string `yaml:"ignore,omitempty"`
	// Inventory are files that say which images run: lines of a digest and where it runs, or what `kubectl get pods -A -o json` prints
	// (relative to the state directory). Whoever writes them needs no other right here.
	Inventory []string `yaml:"inventory,omitempty"`
	// Statements are files, or folders of files, of bundles, envelopes and payloads that signatures of images are made over (relative to the
	// state directory). A log names such a statement by its digest and not the image, so without them those images count as not signed.
	Statements []string `yaml:"statements,omitempty"`
}

// scrub is the time in which everything is hashed once, 0 for every time.
func (r MirrorReconcile) scrub() time.Duration { return max(0, r.Scrub.or(7*24*time.Hour)) }
