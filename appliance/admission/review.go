package admission

import (
	"encoding/json"
	"fmt"

	"redoubt.internal/log/strictjson"
)

// The wire is admission.k8s.io/v1 AdmissionReview. Its fields are these; another one is refused, because what it means to the one who asks
// is not known here. What stands inside object is another matter: pods gain fields with every release of Kubernetes, see objects.go.

const (
	reviewVersion = "admission.k8s.io/v1"
	reviewKind    = "AdmissionReview"
	// maxDepth is how deep an object may nest; the deepest of Kubernetes' own are about 20.
	maxDepth = 64
)

// groupVersionKind and groupVersionResource are Kubernetes' names of a type and of where it is served.
type groupVersionKind struct {
	Group   string `json:"group"`
	Version string `json:"version"`
	Kind    string `json:"kind"`
}

type groupVersionResource struct {
	Group    string `json:"group"`
	Version  string `json:"version"`
	Resource string `json:"resource"`
}

type userInfo struct {
	Username string              `json:"username,omitempty"`
	UID      string              `json:"uid,omitempty"`
	Groups   []string            `json:"groups,omitempty"`
	Extra    map[string][]string `json:"extra,omitempty"`
}

type request struct {
	UID                string                `json:"uid"`
	Kind               groupVersionKind      `json:"kind"`
	Resource           groupVersionResource  `json:"resource"`
	SubResource        string                `json:"subResource,omitempty"`
	RequestKind        *groupVersionKind     `json:"requestKind,omitempty"`
	RequestResource    *groupVersionResource `json:"requestResource,omitempty"`
	RequestSubResource string                `json:"requestSubResource,omitempty"`
	Name               string                `json:"name,omitempty"`
	Namespace          string                `json:"namespace,omitempty"`
	Operation          string                `json:"operation"`
	UserInfo           userInfo              `json:"userInfo"`
	Object             json.RawMessage       `json:"object,omitempty"`
	OldObject          json.RawMessage       `json:"oldObject,omitempty"`
	DryRun             *bool                 `json:"dryRun,omitempty"`
	Options            json.RawMessage       `json:"options,omitempty"`
}

type envelope struct {
	APIVersion string          `json:"apiVersion"`
	Kind       string          `json:"kind"`
	Request    json.RawMessage `json:"request,omitempty"`
	Response   json.RawMessage `json:"response,omitempty"` // null in what comes
}

// decodeReview reads an AdmissionReview with its request. Every error is ErrReview.
func decodeReview(body []byte) (*request, error) {
	bad := func(err error) (*request, error) { return nil, fmt.Errorf("%w: %w", ErrReview, err) }
	limits := strictjson.Limits{Bytes: MaxBody, Depth: maxDepth}
	var e envelope
	if err := strictjson.Decode(body, limits, &e); err != nil {
		return bad(err)
	}
	var r request
	switch {
	case e.APIVersion != reviewVersion || e.Kind != reviewKind:
		return bad(fmt.Errorf("%.80q of %.80q; %s of %s is expected", e.Kind, e.APIVersion, reviewKind, reviewVersion))
	case isNull(e.Request):
		return bad(fmt.Errorf("there is no request in it"))
	}
	if err := strictjson.Decode(e.Request, limits, &r); err != nil {
		return bad(err)
	}
	switch {
	case r.UID == "" || len(r.UID) > 128:
		return bad(fmt.Errorf("uid %.80q", r.UID))
	case len(r.Namespace) > 253 || len(r.Name) > 253 || len(r.Kind.Kind) > 253 || len(r.UserInfo.Username) > 4096:
		return bad(fmt.Errorf("a name in it is too long"))
	case isNull(r.Object) && r.Operation != "DELETE" && r.Operation != "CONNECT":
		return bad(fmt.Errorf("%.40q without an object", r.Operation))
	}
	return &r, nil
}

func isNull(raw json.RawMessage) bool { return len(raw) == 0 || string(raw) == "null" }

// status is what of metav1.Status an answer needs.
type status struct {
	Status  string `json:"status"`
	Message string `json:"message"`
	Reason  string `json:"reason"`
	Code    int32  `json:"code"`
}

type response struct {
	UID              string            `json:"uid"`
	Allowed          bool              `json:"allowed"`
	Status           *status           `json:"status,omitempty"`
	Patch            []byte            `json:"patch,omitempty"` // base64 of a JSON Patch
	PatchType        string            `json:"patchType,omitempty"`
	AuditAnnotations map[string]string `json:"auditAnnotations,omitempty"`
	Warnings         []string          `json:"warnings,omitempty"`
}

// encodeReview writes the answer to a request.
func encodeReview(r response) ([]byte, error) {
	return json.Marshal(struct {
		APIVersion string   `json:"apiVersion"`
		Kind       string   `json:"kind"`
		Response   response `json:"response"`
	}{reviewVersion, reviewKind, r})
}

// patchOperation replaces the image of one container (RFC 6902). The test before it keeps it from falling on another one.
type patchOperation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value string `json:"value"`
}

// patch pins containers to digests: pinned holds the new text by the old. It is nil when nothing changes.
func patch(uses []use, pinned map[string]string) ([]byte, error) {
	var ops []patchOperation
	for _, u := range uses {
		if to := pinned[u.image]; to != "" && to != u.image {
			ops = append(ops, patchOperation{"test", u.path, u.image}, patchOperation{"replace", u.path, to})
		}
	}
	if len(ops) == 0 {
		return nil, nil
	}
	return json.Marshal(ops)
}
