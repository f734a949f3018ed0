package inventory

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"redoubt.internal/log/strictjson"
)

// Limits of statements.
const (
	maxStatement  = 4 << 20 // bytes of a file
	maxStatements = 100_000 // files
)

// Statements reads which signed statements name an image, from files and folders of files: Sigstore bundles with an envelope, envelopes
// (DSSE) of in-toto statements, and the payloads that cosign signs ("simple signing"). A log's entry of such a signature names the
// statement by its SHA-256, or in hashedrekord entries what is signed of an envelope (its PAE), and not the image, so this is how an
// image's entry is found; that a digest is the statement's is computed here, so whoever wrote the files can name too little and nothing false. Of a provenance the subjects count, not the materials.
// The result has for each "sha256:<hex>" of an image those of the statements, and others says how many files were of no such form.
func Statements(paths ...string) (of map[string][]string, others int, err error) {
	of = make(map[string][]string)
	files := 0
	for _, p := range paths {
		err := filepath.WalkDir(p, func(file string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			if files++; files > maxStatements {
				return fmt.Errorf("%w: more than %d files of statements", ErrInventory, maxStatements)
			}
			data, err := readFile(file)
			if err != nil {
				return err
			}
			digests, images := Statement(data)
			if len(images) == 0 {
				others++
			}
			for _, image := range images {
				for _, digest := range digests {
					if len(of[image]) < maxNames && !slices.Contains(of[image], digest) {
						of[image] = append(of[image], digest)
					}
				}
			}
			return nil
		})
		if err != nil {
			return nil, 0, fmt.Errorf("reading statements: %w", err)
		}
	}
	return of, others, nil
}

func readFile(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxStatement+1))
	if err == nil && len(data) > maxStatement {
		err = fmt.Errorf("%w: %s is longer than %d bytes", ErrInventory, file, maxStatement)
	}
	return data, err
}

// Statement returns the digests that the statement in a file is logged by, and the images it names; none where it is no statement.
func Statement(data []byte) (digests, images []string) {
	var err error
	o, jerr := strictjson.Object(data)
	if jerr != nil {
		return nil, nil
	}
	file := member{o, &err}
	payload := data
	envelope := file
	if e := file.object("dsseEnvelope"); e.of != nil {
		envelope = e
	}
	if text := envelope.text("payload"); text != "" {
		if payload, jerr = base64.StdEncoding.DecodeString(text); jerr != nil {
			return nil, nil
		}
		digests = append(digests, sum(pae(envelope.text("payloadType"), payload)))
	}
	if images, jerr = named(payload); jerr != nil || err != nil {
		return nil, nil
	}
	return append(digests, sum(payload)), images
}

// pae is what the signature of an envelope is made over (DSSE, "pre-authentication encoding").
func pae(kind string, payload []byte) []byte {
	return append(fmt.Appendf(nil, "DSSEv1 %d %s %d ", len(kind), kind, len(payload)), payload...)
}

func sum(data []byte) string {
	h := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(h[:])
}

var errStatement = errors.New("no statement about images")

// named are the images that a signed text names: the subjects of an in-toto statement, or the image of cosign's payload.
func named(payload []byte) (images []string, err error) {
	o, err := strictjson.Object(payload)
	if err != nil {
		return nil, err
	}
	top := member{o, &err}
	if image := top.object("critical").object("image").text("docker-manifest-digest"); image != "" {
		images = append(images, image)
	} else {
		for _, s := range top.objects("subject") {
			if hash := s.object("digest").text("sha256"); hash != "" {
				images = append(images, "sha256:"+hash)
			}
		}
	}
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(images, func(d string) bool { return !digestPattern.MatchString(d) }) || len(images) > 4096 {
		return nil, errStatement
	}
	return images, nil
}

// Names reports whether a signed text has that image among its subjects.
func Names(payload []byte, image string) bool {
	images, err := named(payload)
	return err == nil && slices.Contains(images, image)
}
