package verifying

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"redoubt.internal/appliance/policy"
	"redoubt.internal/appliance/verify"
)

// Bounds of reading a git object.
const (
	maxRevision = 1000 // bytes
	maxObject   = 8 << 20
	gitPatience = 30 * time.Second
)

// gatherGit is a commit or tag, which bears its signature. An annotated tag is judged itself, not what it points to.
func gatherGit(ctx context.Context, repository, rev, name string) (g policy.Gathered, err error) {
	object, err := readObject(ctx, repository, rev)
	if err != nil {
		return g, err
	}
	if object.Kind != "commit" && object.Kind != "tag" {
		return g, fmt.Errorf("%w: git:%.100s is a %s, and commits and annotated tags are what is signed", verify.ErrUsage, rev, object.Kind)
	}
	if name == "" {
		absolute, err := filepath.Abs(repository)
		if err != nil {
			return g, fmt.Errorf("%w: %w", localFile{"repository"}, err)
		}
		name = filepath.Base(absolute)
	}
	g.Artifact = policy.Artifact{Kind: policy.Blob, Name: name, Digest: object.Digest(), Git: &object}
	g.Evidence = []policy.Evidence{{Source: "the " + object.Kind}}
	return g, nil
}

// readObject has git read one object. Only its plumbing runs, which knows neither hooks nor filters; nobody's settings but the repository's own are
// read, no replacement of objects is followed, and an object that is not there is not fetched. What git says is the object is held to its name.
func readObject(ctx context.Context, repository, rev string) (o verify.GitObject, err error) {
	if rev == "" || len(rev) > maxRevision || strings.ContainsAny(rev, "\n\x00") {
		return o, fmt.Errorf("%w: git:%.100q names no revision", verify.ErrUsage, rev)
	}
	ctx, cancel := context.WithTimeout(ctx, gitPatience)
	defer cancel()
	git := exec.CommandContext(ctx, "git", "-c", "safe.directory=*", "-C", repository, "cat-file", "--batch")
	git.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent", "LC_ALL=C", "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_NO_REPLACE_OBJECTS=1",
		"GIT_NO_LAZY_FETCH=1", "GIT_ALLOW_PROTOCOL=none", "GIT_TERMINAL_PROMPT=0", "GIT_OPTIONAL_LOCKS=0"}
	git.WaitDelay = time.Second
	var said bytes.Buffer
	git.Stdin, git.Stderr = strings.NewReader(rev+"\n"), &limitedBuffer{&said, 4096}
	out, err := git.StdoutPipe()
	if err == nil {
		err = git.Start()
	}
	if err != nil {
		return o, fmt.Errorf("%w: %w", localFile{"repository"}, err)
	}
	answer, read := io.ReadAll(io.LimitReader(out, maxObject+1))
	if len(answer) > maxObject {
		cancel()
	}
	if err := errors.Join(read, git.Wait()); err != nil {
		return o, fmt.Errorf("%w: git: %w: %s", localFile{"repository"}, err, strings.TrimSpace(said.String()))
	}
	return parseObject(answer, rev)
}

// parseObject reads the answer of `git cat-file --batch`: "ID KIND SIZE", the object, a line's end.
func parseObject(answer []byte, rev string) (o verify.GitObject, err error) {
	r := bufio.NewReader(bytes.NewReader(answer))
	line, _ := r.ReadString('\n')
	var id string
	var size int
	if n, err := fmt.Sscanf(line, "%s %s %d\n", &id, &o.Kind, &size); n != 3 || err != nil {
		return o, fmt.Errorf("%w: the repository has no %.100q (%.200q)", localFile{"revision"}, rev, strings.TrimSpace(line))
	}
	o.SHA256 = len(id) == 64
	if o.Body, err = io.ReadAll(r); err != nil || len(o.Body) != size+1 {
		return o, fmt.Errorf("%w: git: %d of %d bytes", localFile{"repository"}, len(o.Body)-1, size)
	}
	o.Body = o.Body[:size]
	if o.ID() != id {
		return o, fmt.Errorf("%w: the repository gives for %s an object whose name is %s", verify.ErrMalformed, id, o.ID())
	}
	return o, nil
}

// limitedBuffer keeps the first bytes of what is written.
type limitedBuffer struct {
	to   *bytes.Buffer
	room int
}

func (l *limitedBuffer) Write(p []byte) (int, error) {
	l.to.Write(p[:min(len(p), max(l.room-l.to.Len(), 0))])
	return len(p), nil
}
