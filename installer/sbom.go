package installer

import (
	"bytes"
	"debug/buildinfo"
	"fmt"
	"runtime/debug"
	"strings"
	"time"

	"github.com/CycloneDX/cyclonedx-go"
)

// goSum is the property that holds a module's sum as go.sum has it.
const goSum = "go:sum"

// addSBOMs adds a bill of materials for every binary: exactly what the binary itself says it is linked from.
func (c Config) addSBOMs(binaries []binary, members map[string]member) error {
	for _, b := range binaries {
		info, err := buildinfo.ReadFile(b.file)
		if err != nil {
			return fmt.Errorf("reading what %s is linked from: %w", b.member(), err)
		}
		digest, err := digestOf(members[b.member()])
		if err != nil {
			return err
		}
		var out bytes.Buffer
		if err := cyclonedx.NewBOMEncoder(&out, cyclonedx.BOMFileFormatJSON).SetPretty(true).EncodeVersion(c.bom(b, info, digest), cyclonedx.SpecVersion1_5); err != nil {
			return fmt.Errorf("writing the bill of materials of %s: %w", b.member(), err)
		}
		members["sbom/"+b.name+"-"+b.platform+".cdx.json"] = member{mode: 0o644, data: out.Bytes()}
	}
	return nil
}

// bom says what info says. Its serial number comes from the binary's digest: the same binary, the same document.
func (c Config) bom(b binary, info *debug.BuildInfo, digest []byte) *cyclonedx.BOM {
	bom := cyclonedx.NewBOM()
	id := digest[:16]
	id[6], id[8] = id[6]&0x0f|0x80, id[8]&0x3f|0x80 // a UUID of version 8
	bom.SerialNumber = fmt.Sprintf("urn:uuid:%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:16])
	settings := []cyclonedx.Property{}
	for _, s := range info.Settings {
		settings = append(settings, cyclonedx.Property{Name: "go:build:" + s.Key, Value: s.Value})
	}
	bom.Metadata = &cyclonedx.Metadata{
		Timestamp: c.Time.UTC().Format(time.RFC3339),
		Component: &cyclonedx.Component{BOMRef: "redoubt", Type: cyclonedx.ComponentTypeApplication, Name: b.name, Version: c.Version, Properties: &settings},
	}
	components := []cyclonedx.Component{library("std", strings.TrimPrefix(info.GoVersion, "go"), "")}
	for _, d := range info.Deps {
		if d.Replace != nil {
			d = d.Replace
		}
		components = append(components, library(d.Path, d.Version, d.Sum))
	}
	refs := []string{}
	for _, l := range components {
		refs = append(refs, l.BOMRef)
	}
	bom.Components = &components
	bom.Dependencies = &[]cyclonedx.Dependency{{Ref: "redoubt", Dependencies: &refs}}
	return bom
}

func library(path, version, sum string) cyclonedx.Component {
	purl := moduleURL(path, version)
	l := cyclonedx.Component{BOMRef: purl, Type: cyclonedx.ComponentTypeLibrary, Name: path, Version: version, PackageURL: purl, Scope: cyclonedx.ScopeRequired}
	if sum != "" {
		l.Properties = &[]cyclonedx.Property{{Name: goSum, Value: sum}}
	}
	return l
}

// moduleURL is the package URL of a Go module.
func moduleURL(path, version string) string {
	return "pkg:golang/" + path + "@" + strings.ReplaceAll(version, "+", "%2B")
}
