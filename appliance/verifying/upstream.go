package verifying

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/appliance/verify"
	"redoubt.internal/mirror/freshness"
	"redoubt.internal/mirror/parcel"
	"redoubt.internal/mirror/spool"
)

// freshnessFlags are those by which a verification meets the mirror.
func freshnessFlags() []cli.Flag {
	return append(cmdline.StateFlags(),
		&cli.StringFlag{Name: "mirror-state", Usage: "what a mirror knows: its state.note, or the state directory that holds it (default: the configured one, where it can be read)", EnvVars: []string{"REDOUBT_MIRROR_STATE"}},
		&cli.StringFlag{Name: "mirror-key", Usage: "line, or file with the line, that checks --mirror-state (default: state.key beside it)", EnvVars: []string{"REDOUBT_MIRROR_KEY"}},
		&cli.StringSliceFlag{Name: "mirror-root", Usage: "trust the trusted root of this mirrored TUF repository, as --mirror-state names it; with several, --accept says who is accepted under which", EnvVars: []string{"REDOUBT_MIRROR_ROOT"}},
		&cli.StringFlag{Name: "observe", Usage: "leave the log proofs of a verified bundle to the mirror of this state directory", EnvVars: []string{"REDOUBT_OBSERVE"}},
	)
}

// upstream reads what a mirror knows for one verification, and where that stands; nil when none was named and none is configured here.
func (a Appliance) upstream(c *cli.Context) (*freshness.State, string, error) {
	path := c.String("mirror-state")
	if path == "" && a.StateDir != nil {
		if dir := a.StateDir(c); dir != "" {
			path = freshness.Path(dir)
		}
		if f, err := os.Open(path); err != nil {
			return nil, "", nil
		} else {
			f.Close()
		}
	}
	if path == "" {
		return nil, "", nil
	}
	return OpenUpstream(path, c.String("mirror-key"))
}

// OpenUpstream reads what a mirror knows from its state.note or a folder that holds it, checked by the key, and says where it stands.
func OpenUpstream(path, key string) (*freshness.State, string, error) {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		inside := freshness.Path(path)
		if _, err := os.Stat(inside); errors.Is(err, fs.ErrNotExist) {
			inside = filepath.Join(path, "state.note")
		}
		path = inside
	}
	note, err := ReadBounded("mirror state", path)
	if err != nil {
		return nil, "", err
	}
	line, err := mirrorKeyLine(key, path)
	if err != nil {
		return nil, "", err
	}
	known, err := freshness.Open(note, line)
	if err != nil {
		return nil, "", fmt.Errorf("%w: %s: %w", verify.ErrMalformed, path, err)
	}
	return known, filepath.Dir(path), nil
}

// mirrorKeyLine is the verifier line given, in a file, or beside the state.
func mirrorKeyLine(given, state string) (string, error) {
	if given == "" {
		given = filepath.Join(filepath.Dir(state), "state.key")
	} else if _, err := parcel.NewVerifier(given); err == nil {
		return given, nil
	}
	data, err := ReadBounded("mirror key", given)
	return strings.TrimSpace(string(data)), err
}

// leaveProofs leaves the log proofs of a verified bundle to the mirror of a state directory. The verdict stands whether or not that works.
func leaveProofs(dir string, r *verify.Result, warn io.Writer) {
	for _, o := range r.Observations() {
		if err := spool.Leave(spool.Path(dir), o); err != nil {
			fmt.Fprintf(warn, "warning: the log proof could not be left to the mirror: %v\n", err)
			return
		}
	}
}
