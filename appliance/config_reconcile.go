package main

// MirrorReconcile says what reconcile looks at beside what is stored. Inside only.
type MirrorReconcile struct {
	// Inventory are files that say which images run: lines of a digest and where it runs, or what `kubectl get pods -A -o json` prints
	// (relative to the state directory). Whoever writes them needs no other right here.
	Inventory []string `yaml:"inventory,omitempty"`
	// Statements are files, or folders of files, of bundles, envelopes and payloads that signatures of images are made over (relative to the
	// state directory). A log names such a statement by its digest and not the image, so without them those images count as not signed.
	Statements []string `yaml:"statements,omitempty"`
}
