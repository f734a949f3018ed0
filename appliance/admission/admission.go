// Package admission is the cluster's gate: a webhook that a Kubernetes API server asks before it stores anything that runs containers.
//
// What it guarantees:
//   - An object passes when every image that it names, in whatever list of containers or volume, is allowed by the policy under the digest that
//     it will run by. A tag is resolved once, the digest is judged, and the object is changed to name it before it is allowed.
//   - Every error is a refusal: what cannot be read, what is too large or too many, a registry that does not answer in time or answers
//     wrongly, trust that is too old. The bounds are the constants below.
//   - Nothing is asked but the registries that were named, and the API server it serves. An image of another registry is refused without a
//     connection.
//   - A decision rests on the policy and the trust that lie on this machine. No other part of Redoubt has to run.
//   - What is let in against the policy (break-glass, a grace) was approved by several people for these digests and this time, and is
//     recorded durably before it is let in.
//
// What it does not: look again at what runs, or judge what comes into a cluster past its API server (static pods).
//
// Start at Gate.process.
package admission

import (
	"errors"
	"log/slog"
	"time"

	"redoubt.internal/mirror/images"
)

var (
	// ErrReview says that what came is no review of admission.
	ErrReview = errors.New("this is no AdmissionReview")
	// ErrObject says that an object is not one whose images are known.
	ErrObject = errors.New("what images this runs cannot be told")
	// ErrRegistry says that an image is at a registry that was not named.
	ErrRegistry = errors.New("its registry is none of those this cluster may use")
	// ErrImage says that a registry has no such image, or that what names it names none.
	ErrImage = errors.New("there is no such image")
	// ErrUnanswered says that a registry did not answer as it should, or not in time.
	ErrUnanswered = errors.New("its registry did not answer")
	// ErrTooMany says that there is more of something than is looked at.
	ErrTooMany = errors.New("that is more than is looked at")
	// ErrRefused says that the policy does not allow an image.
	ErrRefused = errors.New("the policy does not allow it")
	// ErrUnpinned says that an image is named by a tag where a digest is needed.
	ErrUnpinned = errors.New("it is named by a tag alone")
	// ErrStale says that trust is too old, and that no receipt and no grace covers the image.
	ErrStale = errors.New("what is trusted here is older than it may be")
	// ErrConfig says that the gate is not configured as it has to be.
	ErrConfig = errors.New("the gate's configuration is not as it has to be")
)

// Bounds of a review.
const (
	MaxBody    = 3 << 20 // bytes of an AdmissionReview, what etcd takes of an object and its former state
	MaxImages  = 32      // different images of one object
	maxReviews = 32      // at once; more wait until their time is up
	maxLookups = 8       // images that are looked up at once
)

// Mode is what becomes of a refusal in a namespace.
type Mode string

const (
	Enforce Mode = "enforce" // it is refused
	Warn    Mode = "warn"    // it passes, and who asked is told
	Audit   Mode = "audit"   // it passes, and stands in the API server's audit log
)

// Config is what a Gate works with.
type Config struct {
	// Registries are all that are asked.
	Registries []images.Access
	// Mode is that of namespaces that Modes does not name; "" is Enforce.
	Mode  Mode
	Modes map[string]Mode
	// Own is what the gate itself runs from: images by these digests pass in this namespace, or it could not start where it is asked first. In a
	// cluster the objects that replicas share stand there, and their names begin with OwnName; "" shares nothing.
	OwnName      string
	OwnNamespace string
	OwnDigests   []string
	// Timeout bounds one review; 0 is DefaultTimeout. A shorter one of the API server counts.
	Timeout time.Duration
	// CacheFor is how long a decision to allow is kept while trust and policy stay; 0 is DefaultCacheFor.
	CacheFor time.Duration
	// Grace is how long after trust became too old what was admitted before is still admitted; negative is none, 0 is DefaultGrace.
	Grace time.Duration
	// Reports writes policy reports into the cluster where it has their kind.
	Reports bool
	// Dir keeps receipts and the record of what passed against the policy.
	Dir string
	// Spool is the folder where a mirror finds the log proofs of the bundles seen here; "" leaves none.
	Spool  string
	Logger *slog.Logger
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

const (
	DefaultTimeout  = 8 * time.Second
	DefaultCacheFor = 10 * time.Minute
	DefaultGrace    = 30 * 24 * time.Hour
)
