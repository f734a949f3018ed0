package installer

import (
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/semver"
)

// ErrVulnerable says that something goes into a bundle that is known to be vulnerable.
var ErrVulnerable = errors.New("a binary is linked from a version that is known to be vulnerable")

// assessment is what is known of one vulnerability of a module the product uses or used: the first version without it. Build holds the binaries
// against it, so that what the document says is true of what lies beside it.
type assessment struct{ id, module, fixed, what string }

// assessments are kept by hand, when a module is raised for a vulnerability. They are no scan: a vulnerability that is not here was not looked at.
var assessments = []assessment{
	{"CVE-2025-8556", "github.com/cloudflare/circl", "v1.6.1", "FourQ: points were not validated"},
	{"CVE-2025-27144", "github.com/go-jose/go-jose/v4", "v4.0.5", "many dots in a compact token took much memory"},
	{"CVE-2024-45337", "golang.org/x/crypto", "v0.31.0", "ssh: misuse of the callback for public keys"},
	{"CVE-2025-22869", "golang.org/x/crypto", "v0.35.0", "ssh: a slow key exchange took memory"},
	{"CVE-2024-45338", "golang.org/x/net", "v0.33.0", "html: parsing in more than linear time"},
	{"CVE-2025-22868", "golang.org/x/oauth2", "v0.27.0", "jws: a malformed token took much memory"},
	{"CVE-2024-24786", "google.golang.org/protobuf", "v1.33.0", "protojson: an endless loop on invalid JSON"},
}

// The OpenVEX document, version 0.2.0 of its format.
type openVEX struct {
	Context    string         `json:"@context"`
	ID         string         `json:"@id"`
	Author     string         `json:"author"`
	Timestamp  string         `json:"timestamp"`
	Version    int            `json:"version"`
	Statements []vexStatement `json:"statements"`
}

type vexStatement struct {
	Vulnerability struct {
		Name        string `json:"name"`
		Description string `json:"description"`
	} `json:"vulnerability"`
	Products      []vexProduct `json:"products"`
	Status        string       `json:"status"`
	StatusNotes   string       `json:"status_notes,omitempty"`
	Justification string       `json:"justification,omitempty"`
}

type vexProduct struct {
	ID            string            `json:"@id"`
	Hashes        map[string]string `json:"hashes"`
	Subcomponents []vexComponent    `json:"subcomponents,omitempty"`
}

type vexComponent struct {
	ID string `json:"@id"`
}

// addVEX says for each assessment what it means for each binary, and refuses to pack a vulnerable one.
func (c Config) addVEX(binaries []binary, members map[string]member) error {
	document := openVEX{
		Context: "https://openvex.dev/ns/v0.2.0", ID: "https://redoubt.internal/vex/" + c.Version, Author: "Redoubt", Timestamp: c.Time.UTC().Format(time.RFC3339), Version: 1,
	}
	for _, a := range assessments {
		by := map[string][]vexProduct{} // by version of the module
		for _, b := range binaries {
			version, err := linked(b, a.module)
			if err != nil {
				return err
			}
			if version != "" && semver.Compare(version, a.fixed) < 0 {
				return fmt.Errorf("%w: %s: %s of %s %s, which %s has no more", ErrVulnerable, b.member(), a.id, a.module, version, a.fixed)
			}
			digest, err := digestOf(members[b.member()])
			if err != nil {
				return err
			}
			p := vexProduct{ID: "pkg:generic/" + b.name + "@" + c.Version + "?arch=" + b.platform, Hashes: map[string]string{"sha-256": fmt.Sprintf("%x", digest)}}
			if version != "" {
				p.Subcomponents = []vexComponent{{moduleURL(a.module, version)}}
			}
			by[version] = append(by[version], p)
		}
		for _, version := range slices.Sorted(maps.Keys(by)) {
			document.Statements = append(document.Statements, a.statement(version, by[version]))
		}
	}
	data, err := json.MarshalIndent(document, "", "  ")
	if err != nil {
		return err
	}
	members["sbom/redoubt.openvex.json"] = member{mode: 0o644, data: append(data, '\n')}
	return nil
}

func (a assessment) statement(version string, products []vexProduct) (s vexStatement) {
	s.Vulnerability.Name, s.Vulnerability.Description = a.id, a.module+": "+a.what
	s.Products, s.Status, s.StatusNotes = products, "fixed", "linked from "+version+"; fixed since "+a.fixed
	if version == "" {
		s.Status, s.StatusNotes, s.Justification = "not_affected", "", "component_not_present"
	}
	return s
}

// linked is the version of a module a binary is linked from, "" if it is not.
func linked(b binary, module string) (string, error) {
	info, err := buildinfo.ReadFile(b.file)
	if err != nil {
		return "", fmt.Errorf("reading what %s is linked from: %w", b.member(), err)
	}
	for _, d := range info.Deps {
		if d.Path == module {
			if d.Replace != nil {
				return d.Replace.Version, nil
			}
			return strings.TrimSuffix(d.Version, "+incompatible"), nil
		}
	}
	return "", nil
}
