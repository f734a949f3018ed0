package verifytest

import (
	"bytes"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// inner makes mutants of what stands inside a string of a bundle: certificates and timestamp tokens (DER), bodies and statements (JSON), and
// checkpoints (signed notes), each put together again as a whole of its own kind.
func inner(v string, foreign []map[string]any, path []any, emit func(s, what string)) {
	if strings.Contains(v, "\n\n\u2014 ") {
		other := ""
		for _, f := range foreign {
			if o, ok := Find(f, path); ok {
				other, _ = o.(string)
			}
		}
		noteMutants(v, other, emit)
		return
	}
	raw, err := base64.StdEncoding.DecodeString(v)
	if err != nil || len(raw) < 8 {
		return
	}
	switch raw[0] {
	case 0x30:
		derMutants(raw, func(der []byte, what string) { emit(base64.StdEncoding.EncodeToString(der), what) })
	case '{':
		jsonMutants(raw, func(doc []byte, what string) { emit(base64.StdEncoding.EncodeToString(doc), what) })
	}
}

// noteMutants drops, doubles and swaps the lines of a note and takes each from another note.
func noteMutants(note, other string, emit func(s, what string)) {
	lines, theirs := strings.SplitAfter(note, "\n"), strings.SplitAfter(other, "\n")
	for i := range lines {
		put := func(what string, with ...string) {
			emit(strings.Join(slices.Replace(slices.Clone(lines), i, i+1, with...), ""), fmt.Sprintf("line %d %s", i, what))
		}
		put("dropped")
		put("doubled", lines[i], lines[i])
		put("emptied", "\n")
		put("with CR", strings.TrimSuffix(lines[i], "\n")+"\r\n")
		put("with a space", strings.TrimSuffix(lines[i], "\n")+" \n")
		put("after one more", "more\n", lines[i])
		if i+1 < len(lines) {
			swapped := slices.Clone(lines)
			swapped[i], swapped[i+1] = swapped[i+1], swapped[i]
			emit(strings.Join(swapped, ""), fmt.Sprintf("lines %d and %d swapped", i, i+1))
		}
		if i < len(theirs) {
			put("of another note", theirs[i])
		}
	}
}

// jsonMutants changes one member of a document at a time.
func jsonMutants(doc []byte, emit func(doc []byte, what string)) {
	var tree map[string]any
	if json.Unmarshal(doc, &tree) != nil {
		return
	}
	change := func(path []any, value any, what string) {
		var c map[string]any
		if json.Unmarshal(doc, &c) != nil {
			return
		}
		Set(c, value, path...)
		if raw, err := json.Marshal(c); err == nil {
			emit(raw, fmt.Sprint("member ", path, " ", what))
		}
	}
	leafPaths(tree, nil, func(path []any, v any) {
		if _, inList := path[len(path)-1].(int); !inList {
			change(path, nil, "dropped")
		}
		switch v := v.(type) {
		case string:
			change(path, "", "emptied")
			change(path, v+"0", "longer")
			change(path, strings.ToUpper(v), "in capitals")
			for _, name := range []string{"md5", "sha1", "sha256", "sha384", "sha512", "SHA2_384", "SHA2_512"} {
				change(path, name, "to "+name)
			}
		case []any:
			change(path, []any{}, "emptied")
		case map[string]any:
			change(path, map[string]any{}, "emptied")
			change(append(slices.Clone(path), "sha512"), strings.Repeat("0", 128), "with a sha512")
		default:
			change(path, 7, "to 7")
		}
	})
	for _, more := range []string{" ", "\n", "{}", ",", "\x00"} {
		emit(append(bytes.Clone(doc), more...), fmt.Sprintf("document followed by %q", more))
	}
	emit(append([]byte(`{"apiVersion":"0.0.1","kind":"rekord",`), doc[1:]...), "document with names twice")
}

// derMutants changes one element of a DER value at a time, all lengths made right again.
func derMutants(der []byte, emit func(der []byte, what string)) {
	var places []string
	_ = rebuild(der, "", func(path string, e []byte) [][]byte { places = append(places, path); return [][]byte{e} })
	for _, place := range places {
		try := func(what string, edit func(e []byte) [][]byte) {
			out := rebuild(der, "", func(path string, e []byte) [][]byte {
				if path == place {
					return edit(bytes.Clone(e))
				}
				return [][]byte{e}
			})
			emit(out, "element "+place+" "+what)
		}
		try("dropped", func([]byte) [][]byte { return nil })
		try("doubled", func(e []byte) [][]byte { return [][]byte{e, e} })
		try("emptied", func(e []byte) [][]byte { return [][]byte{{e[0], 0}} })
		try("null", func([]byte) [][]byte { return [][]byte{{5, 0}} })
		try("of the next tag", func(e []byte) [][]byte { e[0]++; return [][]byte{e} })
		try("with its last bit flipped", func(e []byte) [][]byte { e[len(e)-1] ^= 1; return [][]byte{e} })
		try("with a long length", func(e []byte) [][]byte {
			if e[1] < 0x80 {
				e = append([]byte{e[0], 0x81}, e[1:]...)
			}
			return [][]byte{e}
		})
		try("followed by NULL", func(e []byte) [][]byte { return [][]byte{e, {5, 0}} })
	}
}

// rebuild puts a DER value together again from the bottom; edit sees every element by its path of child indices and says what stands there.
func rebuild(der []byte, path string, edit func(path string, e []byte) [][]byte) (out []byte) {
	for i := 0; len(der) > 0; i++ {
		var v asn1.RawValue
		rest, err := asn1.Unmarshal(der, &v)
		if err != nil {
			return append(out, der...)
		}
		here := fmt.Sprintf("%s/%d", path, i)
		element := v.FullBytes
		if v.IsCompound {
			content := rebuild(v.Bytes, here, edit)
			if full, err := asn1.Marshal(asn1.RawValue{Class: v.Class, Tag: v.Tag, IsCompound: true, Bytes: content}); err == nil {
				element = full
			}
		}
		for _, e := range edit(here, element) {
			out = append(out, e...)
		}
		der = rest
	}
	return out
}
