// Package inventory reads what is said to run: the digests of container images, and where each of them runs.
//
// Contract:
//   - Read takes one of two forms and tells them apart by the first character: lines of a digest and where it runs, or the JSON list that
//     `kubectl get pods -A -o json` prints, one pod at a time, so that memory is bounded by the pod and not by the cluster.
//   - Strict where the form is ours: a line that is no digest is ErrInventory with its number. A pod list has members nobody here knows; those
//     are skipped, but a name twice, a value of the wrong type, or a list that ends too early is ErrInventory. Nothing is taken from half a file.
//   - What runs without the digest of a manifest, such as an image that was loaded into a node, is no digest and is not left out either: it is
//     in Unresolved.
//   - It believes nobody: an inventory is a claim of whoever made it.
//
// Start at Read. Statements (statements.go) reads which signed statements name an image.
package inventory

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// ErrInventory says that the input is no inventory of either form.
var ErrInventory = errors.New("this is no inventory of image digests")

// Limits of an inventory.
const (
	maxBytes  = 2 << 30 // of all of it
	maxLine   = 4096    // bytes of a line
	maxImages = 100_000 // different digests
	maxNames  = 20      // places named of one digest, and digests of one statement
	maxName   = 300     // bytes of a name
	maxPlain  = 1000    // unresolved containers named
)

// Image is a digest and where it runs. Its JSON form is stable.
type Image struct {
	Digest string   `json:"digest"`          // "sha256:<hex>"
	Names  []string `json:"names,omitempty"` // where: what the line says, or namespace/pod/container and the image's name
	Places int      `json:"places"`          // how often it is named
}

// Unresolved is something that runs, or is about to, and has no digest. Its JSON form is stable.
type Unresolved struct {
	Name  string `json:"name"`  // namespace/pod/container
	Image string `json:"image"` // as the pod names it
	Why   string `json:"why"`
}

// Inventory is what runs, by digest.
type Inventory struct {
	Images     []Image
	Unresolved []Unresolved // the first of them
	Without    int          // how many there are
	Ended      int          // pods that ran to their end
}

// collecting gathers what is read.
type collecting struct {
	Inventory
	at map[string]int // digest to its place in Images
}

// Read reads an inventory to its end. Every error but one of r is ErrInventory.
func Read(r io.Reader) (Inventory, error) {
	c := &collecting{at: make(map[string]int)}
	m := &meter{r: r, left: maxPod, total: maxBytes}
	in := bufio.NewReaderSize(m, maxLine)
	first, err := firstByte(in)
	switch {
	case errors.Is(err, io.EOF):
		return Inventory{}, fmt.Errorf("%w: it is empty", ErrInventory)
	case err != nil:
		return Inventory{}, err
	case first == '{':
		err = c.pods(in, m)
	default:
		m.left = maxBytes
		err = c.lines(in)
	}
	if err != nil {
		return Inventory{}, err
	}
	slices.SortFunc(c.Images, func(a, b Image) int { return strings.Compare(a.Digest, b.Digest) })
	return c.Inventory, nil
}

// firstByte passes over white space.
func firstByte(in *bufio.Reader) (byte, error) {
	for {
		b, err := in.Peek(1)
		if err != nil {
			return 0, err
		}
		if !strings.ContainsRune(" \t\r\n", rune(b[0])) {
			return b[0], nil
		}
		in.Discard(1)
	}
}

// lines reads "DIGEST [WHERE...]", "IMAGE@DIGEST [WHERE...]", empty lines and those that begin with '#'.
func (c *collecting) lines(in *bufio.Reader) error {
	for n := 1; ; n++ {
		line, err := in.ReadSlice('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			if errors.Is(err, bufio.ErrBufferFull) {
				return fmt.Errorf("%w: line %d is longer than %d bytes", ErrInventory, n, maxLine)
			}
			return err
		}
		if lerr := c.line(bytes.TrimSpace(line)); lerr != nil {
			return fmt.Errorf("line %d: %w", n, lerr)
		}
		if err != nil {
			return nil
		}
	}
}

func (c *collecting) line(line []byte) error {
	if len(line) == 0 || line[0] == '#' {
		return nil
	}
	if !utf8.Valid(line) || bytes.IndexFunc(line, func(r rune) bool { return r != '\t' && unicode.IsControl(r) }) >= 0 {
		return fmt.Errorf("%w: it is no text", ErrInventory)
	}
	fields := strings.Fields(string(line))
	digest, ok := digestOf(fields[0])
	if !ok {
		return fmt.Errorf("%w: %.100q is neither sha256:<64 hex digits> nor IMAGE@sha256:<64 hex digits>", ErrInventory, fields[0])
	}
	name := strings.Join(fields[1:], " ")
	if name == "" && fields[0] != digest {
		name = fields[0]
	}
	return c.add(digest, name)
}

var digestPattern = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// digestOf is the digest in "DIGEST" or "NAME@DIGEST".
func digestOf(text string) (string, bool) {
	if i := strings.LastIndexByte(text, '@'); i > 0 {
		text = text[i+1:]
	}
	return text, digestPattern.MatchString(text)
}

// add takes in one place a digest runs at.
func (c *collecting) add(digest, name string) error {
	i, ok := c.at[digest]
	if !ok {
		if i = len(c.Images); i == maxImages {
			return fmt.Errorf("%w: more than %d different digests", ErrInventory, maxImages)
		}
		c.at[digest] = i
		c.Images = append(c.Images, Image{Digest: digest})
	}
	image := &c.Images[i]
	image.Places++
	if name = cut(name); name != "" && len(image.Names) < maxNames && !slices.Contains(image.Names, name) {
		image.Names = append(image.Names, name)
	}
	return nil
}

func (c *collecting) without(name, image, why string) {
	if c.Without++; len(c.Unresolved) < maxPlain {
		c.Unresolved = append(c.Unresolved, Unresolved{cut(name), cut(image), why})
	}
}

func cut(s string) string {
	return strings.ToValidUTF8(s[:min(len(s), maxName)], "?")
}

// meter ends a reader at a number of bytes, which whoever reads pods sets anew for each.
type meter struct {
	r           io.Reader
	left, total int64
}

func (m *meter) Read(b []byte) (int, error) {
	if m.left <= 0 || m.total <= 0 {
		return 0, fmt.Errorf("%w: a pod of more than %d bytes, or all of it more than %d", ErrInventory, maxPod, int64(maxBytes))
	}
	n, err := m.r.Read(b[:min(int64(len(b)), m.left, m.total)])
	m.left, m.total = m.left-int64(n), m.total-int64(n)
	return n, err
}

// Merge adds the images of an inventory to those of others, by digest.
func Merge(all, more []Image) []Image {
	c := &collecting{at: make(map[string]int)}
	for _, i := range slices.Concat(all, more) {
		n, ok := c.at[i.Digest]
		if !ok {
			c.at[i.Digest] = len(c.Images)
			i.Names = slices.Clone(i.Names)
			c.Images = append(c.Images, i)
			continue
		}
		held := &c.Images[n]
		held.Places += i.Places
		for _, name := range i.Names {
			if len(held.Names) < maxNames && !slices.Contains(held.Names, name) {
				held.Names = append(held.Names, name)
			}
		}
	}
	return c.Images
}
