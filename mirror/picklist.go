package mirror

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"redoubt.internal/mirror/images"
	"redoubt.internal/mirror/parcel"
)

// A Picklist says which entries of which logs an enclave wants. It is text that people can read before it leaves: selectors tell
// whoever holds them what the enclave is interested in.
//
//	redoubt.mirror.picklist/v1 <domain>
//	image <reference>
//	...
//	log <origin>
//	digest <digest>  |  identity <expression>  |  issuer <expression>  |  module <module@version>  |  index <number>  |  pad <number>
//	...
type Picklist struct {
	Domain string
	Images []string    // references of images that what vouches for is wanted of, ascending
	Logs   []PickedLog // ascending by origin
}

// PickedLog is what is wanted of one log.
type PickedLog struct {
	Origin string
	Select Select
}

const (
	picklistHeader = "redoubt.mirror.picklist/v1 "
	// MaxPicklist is the longest picklist in bytes.
	MaxPicklist = 1 << 20
)

// NewPicklist returns what the configured logs select, in order, and the images. ErrNothing when that is nothing.
func NewPicklist(domain string, logs []LogConfig, refs []string) (*Picklist, error) {
	p := &Picklist{Domain: domain, Images: slices.Compact(slices.Sorted(slices.Values(refs)))}
	for _, l := range logs {
		s, err := l.Select.check()
		if err != nil {
			return nil, fmt.Errorf("log %q: %w", l.Origin, err)
		}
		if !s.Empty() {
			p.Logs = append(p.Logs, PickedLog{l.Origin, s.Select})
		}
	}
	if len(p.Logs)+len(p.Images) == 0 {
		return nil, fmt.Errorf("%w: no log has a selector and no image is named", ErrNothing)
	}
	slices.SortFunc(p.Logs, func(a, b PickedLog) int { return strings.Compare(a.Origin, b.Origin) })
	again, err := ParsePicklist(p.Text())
	if err != nil {
		return nil, err
	}
	return again, nil
}

// Text is the picklist as it leaves.
func (p *Picklist) Text() []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "%s%s\n", picklistHeader, p.Domain)
	for _, i := range p.Images {
		fmt.Fprintf(&b, "image %s\n", i)
	}
	for _, l := range p.Logs {
		fmt.Fprintf(&b, "log %s\n", l.Origin)
		for _, kind := range []struct {
			name string
			list []string
		}{{"digest", l.Select.Digests}, {"identity", l.Select.Identities}, {"issuer", l.Select.Issuers}, {"module", l.Select.Modules}} {
			for _, v := range kind.list {
				fmt.Fprintf(&b, "%s %s\n", kind.name, v)
			}
		}
		for _, i := range l.Select.Indexes {
			fmt.Fprintf(&b, "index %d\n", i)
		}
		if l.Select.Pad > 0 {
			fmt.Fprintf(&b, "pad %d\n", l.Select.Pad)
		}
	}
	return []byte(b.String())
}

// Digest names the picklist.
func (p *Picklist) Digest() string { return parcel.Sum(p.Text()).String() }

// ParsePicklist reads a picklist. Any other spelling than Text's is ErrConfig.
func ParsePicklist(text []byte) (*Picklist, error) {
	bad := func(line int, why string) error { return fmt.Errorf("%w: picklist, line %d: %s", ErrConfig, line, why) }
	lines := strings.Split(string(text), "\n")
	domain, ok := strings.CutPrefix(lines[0], picklistHeader)
	if !ok || len(text) > MaxPicklist || domain == "" || strings.ContainsAny(string(text), "\r\x00") {
		return nil, bad(1, "this is no picklist")
	}
	p := &Picklist{Domain: domain}
	for i, line := range lines[1 : len(lines)-1] {
		kind, value, _ := strings.Cut(line, " ")
		if kind == "log" {
			p.Logs = append(p.Logs, PickedLog{Origin: value})
			continue
		}
		if kind == "image" && len(p.Logs) == 0 {
			p.Images = append(p.Images, value)
			continue
		}
		if len(p.Logs) == 0 || value == "" {
			return nil, bad(i+2, "a selector of no log, or an empty one")
		}
		if err := p.Logs[len(p.Logs)-1].Select.addLine(kind, value); err != nil {
			return nil, bad(i+2, err.Error())
		}
	}
	for i, text := range p.Images {
		if _, err := images.ParseReference(text); err != nil || len(p.Images) > images.MaxImages || i > 0 && p.Images[i-1] >= text {
			return nil, fmt.Errorf("%w: picklist: image %.200q stands in the wrong place, or is none", ErrConfig, text)
		}
	}
	for i, l := range p.Logs {
		checked, err := l.Select.check()
		if err != nil {
			return nil, err
		}
		p.Logs[i].Select = checked.Select
		if l.Select.Empty() || l.Origin == "" || len(l.Origin) > 255 || i > 0 && p.Logs[i-1].Origin >= l.Origin {
			return nil, fmt.Errorf("%w: picklist: log %.100q selects nothing, or stands in the wrong place", ErrConfig, l.Origin)
		}
	}
	if len(p.Logs)+len(p.Images) == 0 || len(p.Logs) > parcel.MaxLogs || string(p.Text()) != string(text) {
		return nil, fmt.Errorf("%w: this picklist is not written as it has to be", ErrConfig)
	}
	return p, nil
}

func (s *Select) addLine(kind, value string) error {
	switch kind {
	case "digest":
		s.Digests = append(s.Digests, value)
	case "identity":
		s.Identities = append(s.Identities, value)
	case "issuer":
		s.Issuers = append(s.Issuers, value)
	case "module":
		s.Modules = append(s.Modules, value)
	case "index", "pad":
		n, err := strconv.ParseUint(value, 10, 63)
		if err != nil {
			return fmt.Errorf("%.40q is no number", value)
		}
		if kind == "index" {
			s.Indexes = append(s.Indexes, n)
		} else {
			s.Pad = int(min(n, maxPad+1))
		}
	default:
		return fmt.Errorf("%.40q selects nothing", kind)
	}
	return nil
}

// Apply gives the logs what the picklist wants of them. An origin that is not among them is ErrUnknownOrigin.
func (p *Picklist) Apply(logs []LogConfig) ([]LogConfig, error) {
	out := slices.Clone(logs)
	for _, l := range p.Logs {
		i := slices.IndexFunc(out, func(c LogConfig) bool { return c.Origin == l.Origin })
		if i < 0 {
			return nil, fmt.Errorf("the picklist wants entries of %q: %w", l.Origin, ErrUnknownOrigin)
		}
		out[i].Select = l.Select
	}
	return out, nil
}
