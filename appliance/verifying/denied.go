package verifying

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/verify"
	"redoubt.internal/ca/denied"
)

// deniedFlags are those by which verify honours a list of denied identities.
func deniedFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "denied", Usage: "denied.json: identities that are refused within their windows (default that of --setup, if it has one)", EnvVars: []string{"REDOUBT_DENIED"}},
		&cli.Uint64Flag{Name: "min-denied-version", Usage: "refuse a list of denied identities of an earlier version", EnvVars: []string{"REDOUBT_MIN_DENIED_VERSION"}},
		&cli.DurationFlag{Name: "max-denied-age", Usage: "refuse a list of denied identities whose date is longer ago", EnvVars: []string{"REDOUBT_MAX_DENIED_AGE"}},
	}
}

// deniedList reads the list that --denied or --setup names, and holds it to what the flags ask of its version and age. It is nil where
// there is none and nothing is asked of one.
func deniedList(c *cli.Context) (*denied.List, error) {
	bounds := denied.Bounds{MinVersion: c.Uint64("min-denied-version"), MaxAge: c.Duration("max-denied-age")}
	path := c.String("denied")
	if setup := c.String("setup"); path == "" && setup != "" {
		if _, err := os.Stat(filepath.Join(setup, denied.FileName)); !errors.Is(err, fs.ErrNotExist) {
			path = filepath.Join(setup, denied.FileName)
		}
	}
	if path == "" {
		if bounds != (denied.Bounds{}) {
			return nil, fmt.Errorf("%w: --min-denied-version and --max-denied-age are of a list: --denied F, or a --setup DIR that has one", verify.ErrUsage)
		}
		return nil, nil
	}
	data, err := ReadBounded("list of denied identities", path)
	if err != nil {
		return nil, err
	}
	list, err := denied.Parse(data)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", verify.ErrMalformed, path, err)
	}
	if err := list.Check(bounds, Now()); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", verify.ErrStale, path, err)
	}
	return list, nil
}
