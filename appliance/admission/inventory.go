package admission

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"redoubt.internal/mirror/images"
)

// Used is an image that a cluster names, and where.
type Used struct {
	// Image is as the object names it; of a pod that runs with the digest it runs by.
	Image string
	// Where are the places, as apps/Deployment web: containers "app".
	Where []string
	// Problem says why the object could not be read, in place of Image.
	Problem string
}

// lists are where the kinds that run containers are served.
var lists = []struct{ kind, path string }{
	{" Pod", "/api/v1/pods"}, {" PodTemplate", "/api/v1/podtemplates"}, {" ReplicationController", "/api/v1/replicationcontrollers"},
	{"apps Deployment", "/apis/apps/v1/deployments"}, {"apps ReplicaSet", "/apis/apps/v1/replicasets"}, {"apps StatefulSet", "/apis/apps/v1/statefulsets"},
	{"apps DaemonSet", "/apis/apps/v1/daemonsets"}, {"batch Job", "/apis/batch/v1/jobs"}, {"batch CronJob", "/apis/batch/v1/cronjobs"},
}

const (
	listPage = 50      // objects that are asked for at once
	maxPages = 20_000  // of one kind
	maxUsed  = 200_000 // different images
)

// Images lists the images that a cluster's pods and workloads name, in every namespace. It needs the right to list them.
func Images(ctx context.Context, c Cluster) ([]Used, error) {
	k, err := openKube(c)
	if err != nil {
		return nil, err
	}
	found := map[string][]string{}
	var problems []Used
	for _, l := range lists {
		group, kind, _ := strings.Cut(l.kind, " ")
		more := ""
		for page := 0; ; page++ {
			var list struct {
				Metadata struct {
					Continue string `json:"continue"`
				} `json:"metadata"`
				Items []map[string]any `json:"items"`
			}
			path := fmt.Sprintf("%s?limit=%d&continue=%s", l.path, listPage, url.QueryEscape(more))
			if err := k.do(ctx, http.MethodGet, path, "", nil, &list); err != nil {
				return nil, fmt.Errorf("listing each %s: %w", kind, err)
			}
			for _, item := range list.Items {
				if problem := addImages(found, groupVersionKind{group, "v1", kind}, item); problem != "" {
					problems = append(problems, Used{Problem: problem})
				}
			}
			if more = list.Metadata.Continue; more == "" {
				break
			}
			if page == maxPages || len(found) > maxUsed {
				return nil, fmt.Errorf("%w: more than %d pages of each %s", ErrCluster, maxPages, kind)
			}
		}
	}
	var all []Used
	for _, image := range slices.Sorted(maps.Keys(found)) {
		all = append(all, Used{Image: image, Where: found[image]})
	}
	return append(all, problems...), nil
}

// addImages adds the images of one object of a list, which leaves out what kind its objects are.
func addImages(found map[string][]string, kind groupVersionKind, item map[string]any) (problem string) {
	item["kind"], item["apiVersion"] = kind.Kind, versionOf(kind)
	meta, _ := item["metadata"].(map[string]any)
	at := fmt.Sprintf("%.300v/%s %.300v", meta["namespace"], kind.Kind, meta["name"])
	raw, err := json.Marshal(item)
	if err != nil {
		return at + ": " + err.Error()
	}
	uses, err := imagesOf(kind, raw)
	if err != nil {
		return at + ": " + err.Error()
	}
	runs := map[string]string{}
	if kind.Kind == "Pod" {
		runs = running(item)
	}
	for _, u := range uses {
		image := u.image
		if digest := runs[u.where]; digest != "" && !strings.Contains(image, "@") {
			image += "@" + digest
		}
		found[image] = append(found[image], at+": "+u.where)
	}
	return ""
}

// running are the digests by which a pod's containers run, by the place of each.
func running(pod map[string]any) map[string]string {
	out := map[string]string{}
	status, _ := pod["status"].(map[string]any)
	for list, member := range map[string]string{"containers": "containerStatuses", "initContainers": "initContainerStatuses", "ephemeralContainers": "ephemeralContainerStatuses"} {
		all, _ := status[member].([]any)
		for _, one := range all {
			c, _ := one.(map[string]any)
			name, _ := c["name"].(string)
			id, _ := c["imageID"].(string)
			if _, digest, ok := strings.Cut(id, "@"); ok {
				out[fmt.Sprintf("%s %q", list, name)] = digest
			}
		}
	}
	return out
}

// Reference reads the name of an image as the gate does: a missing tag is "latest", and without a registry it names none.
func Reference(image string) (images.Reference, error) { return reference(image) }
