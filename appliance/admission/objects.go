package admission

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// use is one place of an object that names an image.
type use struct {
	path  string // JSON Pointer (RFC 6901)
	where string // for people: containers "app", volumes "models"
	image string
}

// same tells an image that stood there before from one that is new: by the list and name, since a list may have grown before it.
func (u use) same(o use) bool { return u.where == o.where && u.image == o.image }

// podSpecs says where each kind that runs containers keeps its pod specification. Every version of a kind keeps it in one place.
var podSpecs = map[string][]string{
	" Pod":                   {"spec"},
	" PodTemplate":           {"template", "spec"},
	" ReplicationController": {"spec", "template", "spec"},
	"apps Deployment":        {"spec", "template", "spec"},
	"apps ReplicaSet":        {"spec", "template", "spec"},
	"apps StatefulSet":       {"spec", "template", "spec"},
	"apps DaemonSet":         {"spec", "template", "spec"},
	"batch Job":              {"spec", "template", "spec"},
	"batch CronJob":          {"spec", "jobTemplate", "spec", "template", "spec"},
}

// imageless are the kinds that subresources of those take and that name no image.
var imageless = []string{
	" Binding", "policy Eviction", "autoscaling Scale", " PodExecOptions", " PodAttachOptions", " PodPortForwardOptions", " PodProxyOptions",
}

// containerLists are the lists of containers in a pod specification.
var containerLists = []string{"initContainers", "containers", "ephemeralContainers"}

// imagesOf lists the images that an object of that kind names. Every error is ErrObject.
func imagesOf(kind groupVersionKind, object json.RawMessage) ([]use, error) {
	name := kind.Group + " " + kind.Kind
	where, known := podSpecs[name]
	if !known {
		if slices.Contains(imageless, name) {
			return nil, nil
		}
		return nil, fmt.Errorf("%w: %.100q of group %.100q; take it out of the rules of the webhook, or run it as a pod of its own", ErrObject, kind.Kind, kind.Group)
	}
	var document any
	if err := json.Unmarshal(object, &document); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrObject, err)
	}
	if err := sameKind(kind, document); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrObject, err)
	}
	for _, member := range where {
		parent, ok := document.(map[string]any)
		if !ok || parent[member] == nil {
			if name == " ReplicationController" && member == "template" { // it may have none, and then runs nothing
				return nil, nil
			}
			return nil, fmt.Errorf("%w: %s has no %s", ErrObject, kind.Kind, strings.Join(where, "."))
		}
		document = parent[member]
	}
	spec, ok := document.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("%w: %s of %s is no object", ErrObject, strings.Join(where, "."), kind.Kind)
	}
	uses, err := imagesOfSpec("/"+strings.Join(where, "/"), spec)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrObject, kind.Kind, err)
	}
	return uses, nil
}

// sameKind refuses an object that is another than the request says.
func sameKind(kind groupVersionKind, object any) error {
	o, ok := object.(map[string]any)
	if !ok {
		return errors.New("the object is none")
	}
	version := kind.Version
	if kind.Group != "" {
		version = kind.Group + "/" + version
	}
	if o["kind"] != kind.Kind || o["apiVersion"] != version {
		return fmt.Errorf("the request says %s of %s, the object %.80q of %.80q", kind.Kind, version, fmt.Sprint(o["kind"]), fmt.Sprint(o["apiVersion"]))
	}
	return nil
}

func imagesOfSpec(path string, spec map[string]any) (uses []use, err error) {
	for member, value := range spec {
		// A list of containers that this release does not know may run what nobody looked at.
		if strings.HasSuffix(strings.ToLower(member), "containers") && !slices.Contains(containerLists, member) && value != nil {
			return nil, fmt.Errorf("spec.%.80s is not known here", member)
		}
	}
	for _, list := range containerLists {
		err := each(spec, list, func(i int, name string, c map[string]any) error {
			image, ok := c["image"].(string)
			if !ok || image == "" {
				return fmt.Errorf("%s %q names no image", list, name)
			}
			uses = append(uses, use{fmt.Sprintf("%s/%s/%d/image", path, list, i), fmt.Sprintf("%s %q", list, name), image})
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	err = each(spec, "volumes", func(i int, name string, v map[string]any) error {
		if v["image"] == nil {
			return nil
		}
		source, ok := v["image"].(map[string]any)
		reference, isText := source["reference"].(string)
		if !ok || !isText || reference == "" {
			return fmt.Errorf("volumes %q names no image", name)
		}
		uses = append(uses, use{fmt.Sprintf("%s/volumes/%d/image/reference", path, i), fmt.Sprintf("volumes %q", name), reference})
		return nil
	})
	return uses, err
}

// each calls do for the members of a list of named objects.
func each(spec map[string]any, list string, do func(i int, name string, o map[string]any) error) error {
	if spec[list] == nil {
		return nil
	}
	all, ok := spec[list].([]any)
	if !ok {
		return fmt.Errorf("spec.%s is no list", list)
	}
	for i, item := range all {
		o, ok := item.(map[string]any)
		if !ok {
			return fmt.Errorf("spec.%s[%d] is no object", list, i)
		}
		name, _ := o["name"].(string)
		if len(name) > 253 {
			return fmt.Errorf("spec.%s[%d] has too long a name", list, i)
		}
		if err := do(i, name, o); err != nil {
			return err
		}
	}
	return nil
}

// changed are the images that did not stand at the same place before.
func changed(uses, before []use) []use {
	return slices.DeleteFunc(slices.Clone(uses), func(u use) bool { return slices.ContainsFunc(before, u.same) })
}

// pullSecretsOf are the names of the secrets with which a pod says its images are pulled.
func pullSecretsOf(kind groupVersionKind, object json.RawMessage) (names []string, account string) {
	var document any
	if json.Unmarshal(object, &document) != nil {
		return nil, ""
	}
	for _, member := range podSpecs[kind.Group+" "+kind.Kind] {
		parent, _ := document.(map[string]any)
		document = parent[member]
	}
	spec, _ := document.(map[string]any)
	list, _ := spec["imagePullSecrets"].([]any)
	for _, item := range list {
		o, _ := item.(map[string]any)
		if name, _ := o["name"].(string); name != "" && len(names) < 8 {
			names = append(names, name)
		}
	}
	account, _ = spec["serviceAccountName"].(string)
	return names, account
}
