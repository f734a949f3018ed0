package policy

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// SplitBundles is each line as evidence where every line that is not empty is JSON, else the whole.
func SplitBundles(name string, data []byte) (all []Evidence) {
	lines := bytes.Split(data, []byte{'\n'})
	for i, line := range lines {
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		if !json.Valid(line) {
			return []Evidence{{Source: name, Bundle: data}}
		}
		all = append(all, Evidence{Source: fmt.Sprintf("%s, line %d", name, i+1), Bundle: line})
	}
	if len(all) < 2 {
		return []Evidence{{Source: name, Bundle: data}}
	}
	return all
}
