package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/log"
	"redoubt.internal/log/rekor"
	"redoubt.internal/mirror"
	"redoubt.internal/mirror/inventory"
)

// coverQuestion asks which entries say that images were signed.
type coverQuestion struct {
	Images     []inventory.Image   `json:"images"`
	Statements map[string][]string `json:"statements"` // of each image, the digests of the statements about it
}

// coverAnswer says how each image stands, in the order of the question, and where was searched.
type coverAnswer struct {
	Images []mirror.CoveredImage `json:"images"`
	Logs   []mirror.SearchedLog  `json:"logs"`
}

var mirrorCoverage = verb[coverQuestion, coverAnswer]{"mirror.coverage", func(ctx context.Context, in *instance, _ string, q coverQuestion) (coverAnswer, error) {
	var a coverAnswer
	var err error
	if a.Logs, err = in.searched(); err != nil {
		return a, err
	}
	carried, err := in.statementsAbout(q.Images)
	if err != nil {
		return a, cmdline.WithCode(mirror.ExitCode(err), err)
	}
	for _, i := range q.Images {
		statements := append(slices.Clone(q.Statements[i.Digest]), carried[i.Digest]...)
		slices.Sort(statements)
		found, read, err := in.signaturesOf(ctx, a.Logs, i.Digest, slices.Compact(statements))
		if err != nil {
			return a, cmdline.WithCode(mirror.ExitCode(err), err)
		}
		a.Images = append(a.Images, mirror.Cover(i, found, read))
	}
	return a, nil
}}

// statementsAbout are the statements about images that were carried here with what vouches for them.
func (in *instance) statementsAbout(running []inventory.Image) (map[string][]string, error) {
	if in.mirror == nil {
		return nil, nil
	}
	var digests []string
	for _, i := range running {
		digests = append(digests, i.Digest)
	}
	return in.mirror.StatementsAbout(digests)
}

// localLog is how one of our own logs is called among those searched.
func localLog(name string) string { return "local " + name }

// searched are the logs in which signatures are looked for: ours, and those mirrored here.
func (in *instance) searched() (logs []mirror.SearchedLog, err error) {
	for _, l := range in.artifacts {
		logs = append(logs, mirror.SearchedLog{Log: localLog(l.Name), Size: l.log.Head().Size, Whole: true})
	}
	if in.mirror == nil {
		return logs, nil
	}
	mirrored, err := in.mirror.SignatureLogs()
	return append(logs, mirrored...), err
}

// coverEntries is the most entries of one log that are read for one digest. Beyond them nothing is said to be absent: entries that only
// mention the digest, as those of a base image do by the hundred, may stand before the one that signs it.
const coverEntries = 256

// signaturesOf finds the entries that sign an image, by its own digest and by those of statements about it. read are the logs as far as
// they were read for it: one of which there were too many entries is not read whole.
func (in *instance) signaturesOf(ctx context.Context, logs []mirror.SearchedLog, image string, statements []string) (out []mirror.ImageSignature, read []mirror.SearchedLog, err error) {
	read = slices.Clone(logs)
	for _, statement := range append([]string{""}, statements...) {
		term := orDefault(statement, image)
		for i, l := range logs {
			found, all, err := in.entriesWith(ctx, l, term)
			if err != nil {
				return nil, nil, fmt.Errorf("searching %q: %w", l.Log, err)
			}
			read[i].Whole = read[i].Whole && all
			for _, r := range found {
				out = append(out, mirror.SignaturesOf(l.Log, r, image, statement)...)
			}
		}
	}
	return out, read, nil
}

// entriesWith are entries of one of our own logs, or of a mirrored one, that carry a digest; all says that there are no more.
func (in *instance) entriesWith(ctx context.Context, l mirror.SearchedLog, term string) (found []mirror.Record, all bool, err error) {
	for _, a := range in.artifacts {
		if localLog(a.Name) == l.Log {
			return localEntries(ctx, a.log, term)
		}
	}
	if in.mirror == nil || l.Size == 0 {
		return nil, true, nil
	}
	return in.mirrorIndex.Some(ctx, l.Log, term, coverEntries)
}

// localEntries are entries of one of our own logs. What stands beside them is of another form than in a mirrored log: a statement kept
// there is not looked into.
func localEntries(ctx context.Context, l *log.Log, term string) (out []mirror.Record, all bool, err error) {
	found, err := l.Find(ctx, rekor.SearchKey(term), coverEntries+1)
	if err != nil {
		return nil, false, err
	}
	for _, i := range found[:min(len(found), coverEntries)] {
		e, err := l.Entry(ctx, i)
		if err != nil {
			return nil, false, err
		}
		out = append(out, mirror.Record{Index: i, Leaf: e.Leaf})
	}
	return out, len(found) <= coverEntries, nil
}

// readInventory reads one inventory, "-" from in.
func readInventory(path string, in io.Reader) (inventory.Inventory, mirror.InventoryRead) {
	read := mirror.InventoryRead{Path: path}
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			read.Error = err.Error()
			return inventory.Inventory{}, read
		}
		defer f.Close()
		if info, err := f.Stat(); err == nil {
			read.Time = info.ModTime().UTC()
		}
		in = f
	}
	got, err := inventory.Read(in)
	if err != nil {
		read.Error = err.Error()
	}
	read.Images, read.Ended = len(got.Images), got.Ended
	return got, read
}

// coverageBatch is how many images are asked for at once: the control socket takes requests of a megabyte.
const coverageBatch = 200

// coverage compares inventories with the logs, through ask.
func coverage(ctx context.Context, r *mirror.CoverageReport, paths, statements []string, stdin io.Reader, ask func(coverQuestion) (coverAnswer, error)) error {
	of, _, err := inventory.Statements(statements...)
	if err != nil {
		return err
	}
	var all []inventory.Image
	r.Inventories, r.Logs, r.Images = []mirror.InventoryRead{}, []mirror.SearchedLog{}, []mirror.CoveredImage{}
	for _, p := range paths {
		got, read := readInventory(p, stdin)
		r.Inventories = append(r.Inventories, read)
		r.Unresolved += got.Without
		r.Plain = append(r.Plain, got.Unresolved...)
		all = inventory.Merge(all, got.Images)
	}
	for batch := range slices.Chunk(all, coverageBatch) {
		if err := ctx.Err(); err != nil {
			return err
		}
		q := coverQuestion{Images: batch, Statements: map[string][]string{}}
		for _, i := range batch {
			if s := of[i.Digest]; s != nil {
				q.Statements[i.Digest] = s
			}
		}
		a, err := ask(q)
		if err != nil {
			return err
		}
		r.Logs = a.Logs
		for _, c := range a.Images {
			r.Add(c)
		}
	}
	return nil
}

// cover is coverage at a reconcile, of the inventories that are configured. One that cannot be read stands in the report.
func (in *instance) cover(ctx context.Context) (*mirror.CoverageReport, error) {
	resolve := func(paths []string) (out []string) {
		for _, p := range paths {
			out = append(out, in.dir.resolve(p))
		}
		return out
	}
	c, r := in.cfg.Mirror.Reconcile, &mirror.CoverageReport{Time: in.now().UTC()}
	err := coverage(ctx, r, resolve(c.Inventory), resolve(c.Statements), nil, func(q coverQuestion) (coverAnswer, error) { return mirrorCoverage.run(ctx, in, "", q) })
	for _, i := range r.Inventories {
		if i.Error != "" {
			in.logger.ErrorContext(ctx, "reading an inventory", "path", i.Path, "error", i.Error)
		}
	}
	return r, err
}

// covered is what the mirror asks at a reconcile; nil without an inventory.
func (in *instance) covered() func(context.Context) (*mirror.CoverageReport, error) {
	if len(in.cfg.Mirror.Reconcile.Inventory) == 0 {
		return nil
	}
	return in.cover
}

var errUnread = errors.New("an inventory could not be read")
