package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/ca/denied"
	"redoubt.internal/log/strictjson"
)

// holdDenied refuses a policy whose lists of denied identities are of an earlier version than the gate has gone by, and remembers those it
// has now, by root, in STATE/denied-versions.json.
func (a *Admission) holdDenied(now map[string]uint64) error {
	file := filepath.Join(a.path(a.State), "denied-versions.json")
	seen := map[string]uint64{}
	data, err := readRecord(file)
	if err == nil {
		err = strictjson.Check(data, strictjson.Limits{Bytes: 1 << 20, Depth: 2})
	}
	if err == nil {
		err = json.Unmarshal(data, &seen)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("reading which lists of denied identities were seen, %s: %w", file, err)
	}
	was := maps.Clone(seen)
	for root, version := range now {
		if version < seen[root] {
			return cmdline.Hinted(fmt.Errorf("%w: root %s: version %d, this gate has gone by version %d", denied.ErrOld, root, version, seen[root]), "`redoubt client setup` writes the newest where the instance runs")
		}
		seen[root] = version
	}
	if maps.Equal(was, seen) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o750); err != nil {
		return err
	}
	if data, err = json.Marshal(seen); err != nil {
		return err
	}
	return writeFileAtomic(file, append(data, '\n'), 0o640)
}
