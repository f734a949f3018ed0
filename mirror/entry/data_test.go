package entry_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// publicData is the folder of real public log data, or a skip.
func publicData(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("REDOUBT_PUBLIC_LOG_DATA")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "shared", "public-log-data")
	}
	if _, err := os.Stat(filepath.Join(dir, "entries")); err != nil {
		t.Skip("public log data absent: set REDOUBT_PUBLIC_LOG_DATA")
	}
	return dir
}

// realLeaves are the bodies of all entries in the shared bundles and entries, each once, by the file that holds it first.
func realLeaves(t testing.TB) map[string][]byte {
	t.Helper()
	root := publicData(t)
	out := make(map[string][]byte)
	seen := make(map[string]bool)
	for _, dir := range []string{"bundles", "entries"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".json") {
				return err
			}
			raw, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			var tree any
			if err := json.Unmarshal(raw, &tree); err != nil {
				return err
			}
			for i, b := range bodies(tree) {
				if !seen[string(b)] {
					seen[string(b)] = true
					out[strings.Repeat("+", i)+strings.TrimPrefix(path, root)] = b
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// bodies collects the members called canonicalizedBody, canonicalized_body or body that are base64 of an entry.
func bodies(v any) (out [][]byte) {
	switch v := v.(type) {
	case map[string]any:
		for k, inner := range v {
			if s, ok := inner.(string); ok && (k == "canonicalizedBody" || k == "canonicalized_body" || k == "body") {
				if b, err := base64.StdEncoding.DecodeString(s); err == nil && bytes.Contains(b, []byte(`"apiVersion"`)) {
					out = append(out, b)
				}
			}
			out = append(out, bodies(inner)...)
		}
	case []any:
		for _, inner := range v {
			out = append(out, bodies(inner)...)
		}
	}
	return out
}
