package inventory

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"redoubt.internal/log/strictjson"
)

// maxPod is the longest pod in bytes: a cluster keeps none of more than 1.5 MiB, and kubectl indents them.
const maxPod = 8 << 20

// pods reads {"items": [pod, ...], ...}. kubectl writes the kind after the items, so it is checked at the end.
func (c *collecting) pods(in *bufio.Reader, m *meter) error {
	d := json.NewDecoder(in)
	fail := func(err error) error {
		if errors.Is(err, ErrInventory) {
			return err
		}
		return fmt.Errorf("%w: at byte %d: %v", ErrInventory, d.InputOffset(), err)
	}
	if _, err := d.Token(); err != nil { // the brace that was seen
		return fail(err)
	}
	seen := make(map[string]bool)
	kind := ""
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return fail(err)
		}
		name, _ := token.(string)
		if seen[name] || len(seen) > 64 {
			return fmt.Errorf("%w: the list has %.100q twice, or too many members", ErrInventory, name)
		}
		seen[name] = true
		switch name {
		case "items":
			err = c.items(d, m)
		case "kind":
			err = d.Decode(&kind)
		default:
			var skipped json.RawMessage
			err = d.Decode(&skipped)
		}
		if err != nil {
			return fail(err)
		}
	}
	if _, err := d.Token(); err != nil {
		return fail(err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: something follows the list", ErrInventory)
	}
	if !seen["items"] || kind != "List" && kind != "PodList" {
		return fmt.Errorf("%w: a list of pods is expected, as kubectl get pods -A -o json prints it; this is of kind %.40q", ErrInventory, kind)
	}
	return nil
}

func (c *collecting) items(d *json.Decoder, m *meter) error {
	if token, err := d.Token(); err != nil || token != json.Delim('[') {
		return errors.Join(errors.New("items is no list"), err)
	}
	for n := 0; d.More(); n++ {
		m.left = maxPod
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			return err
		}
		if err := c.pod(raw); err != nil {
			return fmt.Errorf("pod %d of the list: %w", n+1, err)
		}
	}
	m.left = maxPod
	_, err := d.Token()
	return err
}

// member reads the members of objects that are asked for, and remembers the first that is of another type.
type member struct {
	of  map[string]any
	err *error
}

func (m member) text(name string) string {
	s, ok := m.of[name].(string)
	if _, there := m.of[name]; there && !ok && m.of[name] != nil && *m.err == nil {
		*m.err = fmt.Errorf("%w: %s is no text", ErrInventory, name)
	}
	return s
}

func (m member) object(name string) member {
	o, ok := m.of[name].(map[string]any)
	if _, there := m.of[name]; there && !ok && m.of[name] != nil && *m.err == nil {
		*m.err = fmt.Errorf("%w: %s is no object", ErrInventory, name)
	}
	return member{o, m.err}
}

func (m member) objects(name string) (out []member) {
	list, ok := m.of[name].([]any)
	if _, there := m.of[name]; there && !ok && m.of[name] != nil && *m.err == nil {
		*m.err = fmt.Errorf("%w: %s is no list", ErrInventory, name)
	}
	for _, v := range list {
		o, ok := v.(map[string]any)
		if !ok && *m.err == nil {
			*m.err = fmt.Errorf("%w: %s holds something else than objects", ErrInventory, name)
		}
		out = append(out, member{o, m.err})
	}
	return out
}

// pod takes in what the containers of one pod run.
func (c *collecting) pod(raw []byte) error {
	o, err := strictjson.Object(raw)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInventory, err)
	}
	pod := member{o, &err}
	if kind := pod.text("kind"); kind != "Pod" && err == nil {
		return fmt.Errorf("%w: it is of kind %.40q", ErrInventory, kind)
	}
	meta, status := pod.object("metadata"), pod.object("status")
	place := meta.text("namespace") + "/" + meta.text("name")
	if meta.text("name") == "" && err == nil {
		return fmt.Errorf("%w: it has no name", ErrInventory)
	}
	if phase := status.text("phase"); phase == "Succeeded" || phase == "Failed" {
		c.Ended++
		return err
	}
	for _, sort := range [][2]string{{"initContainers", "initContainerStatuses"}, {"containers", "containerStatuses"}, {"ephemeralContainers", "ephemeralContainerStatuses"}} {
		reported := make(map[string]bool)
		for _, s := range status.objects(sort[1]) {
			name, image, id := s.text("name"), s.text("image"), s.text("imageID")
			reported[name] = true
			digest, ok := digestOf(id)
			switch {
			case err != nil:
			case id == "":
				c.without(place+"/"+name, image, "its image was not pulled yet")
			case !ok || digest == id: // without a name before it, it is the id of a node's own image
				c.without(place+"/"+name, image, "its image was loaded into the node: it has no digest of a manifest")
			default:
				err = c.add(digest, place+"/"+name+" "+image)
			}
		}
		for _, s := range pod.object("spec").objects(sort[0]) {
			if name := s.text("name"); !reported[name] && err == nil {
				c.without(place+"/"+name, s.text("image"), "the node reported nothing of it")
			}
		}
	}
	return err
}
