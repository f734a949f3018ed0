// Package cmdline is what the command line of every verb has in common: exit codes and errors that know them, output as text or JSON, the order of
// flags, where the configuration is.
//
// It guarantees that a command line ends with a code of the documented table, that results go to stdout and everything else to stderr, and that a
// panic ends with 70 and no verdict. It holds no verb. Start at Run.
package cmdline

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
	"syscall"

	"github.com/urfave/cli/v2"

	"redoubt.internal/log/strictyaml"
)

// Run is main without the exit: it returns the process's exit code. SIGINT and SIGTERM end the context of the verb.
func Run(app *cli.App, args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	return Execute(ctx, app, args)
}

// Execute runs one command line. A panic ends with its own code and never with a verdict.
func Execute(ctx context.Context, app *cli.App, args []string) (code int) {
	defer func() {
		if p := recover(); p != nil {
			fmt.Fprintf(app.ErrWriter, "redoubt: internal error: %v\n%s", p, debug.Stack())
			code = ExitPanic
		}
	}()
	return Report(app.ErrWriter, app.RunContext(ctx, Permute(app.Flags, app.Commands, args)))
}

// New is the program redoubt with these verbs.
func New(version string, verbs []*cli.Command, stdout, stderr io.Writer) *cli.App {
	return &cli.App{
		Name:  "redoubt",
		Usage: "Sigstore for networks with no way out: issue, record, carry across the gap, verify",
		Description: "redoubt holds the keys, issues short-lived code-signing certificates, records every signature in a Merkle log,\n" +
			"carries public log data across the air gap with proof, and verifies offline. `redoubt demo` shows all of it.",
		Version:                   version,
		HideHelpCommand:           true,
		Suggest:                   true,
		DisableSliceFlagSeparator: true,
		Writer:                    stdout,
		ErrWriter:                 stderr,
		Flags:                     GlobalFlags(),
		Commands:                  verbs,
		ExitErrHandler:            func(*cli.Context, error) {},
		OnUsageError:              func(_ *cli.Context, err error, _ bool) error { return Usage("%v", err) },
		CommandNotFound:           func(*cli.Context, string) {},
		Action:                    NoVerb,
	}
}

// NoVerb answers a missing or unknown verb at any level of the table.
func NoVerb(c *cli.Context) error {
	if name := c.Args().First(); name != "" {
		var names []string
		for _, sub := range subcommands(c) {
			names = append(names, sub.Name)
		}
		return Usage("%s has no command %q%s; `%s --help` lists the commands", c.Command.HelpName, name, strictyaml.Nearest(name, slices.Values(names)), c.Command.HelpName)
	}
	if err := showHelp(c); err != nil {
		return err
	}
	return Usage("a command is missing")
}

// GlobalFlags stand before the verb; verbs that work on a state directory take --dir and --config after the verb as well.
func GlobalFlags() []cli.Flag {
	return append(StateFlags(),
		&cli.StringFlag{Name: "log-level", Usage: "debug, info, warn or error", Value: "info", EnvVars: []string{"REDOUBT_LOG_LEVEL"}},
		&cli.StringFlag{Name: "log-format", Usage: "text or json", Value: "text", EnvVars: []string{"REDOUBT_LOG_FORMAT"}},
		&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "no progress on stderr", EnvVars: []string{"REDOUBT_QUIET"}},
	)
}

// NewLogger builds the one logger of the process from the global flags; rooms are handed it, none reaches for a global.
func NewLogger(c *cli.Context) (*slog.Logger, error) {
	return LoggerAt(c, slog.LevelInfo)
}

// LoggerAt is NewLogger with another level where --log-level was not given.
func LoggerAt(c *cli.Context, level slog.Level) (*slog.Logger, error) {
	if !c.IsSet("log-level") {
		return newHandler(c, level)
	}
	if err := level.UnmarshalText([]byte(c.String("log-level"))); err != nil {
		return nil, Usage("--log-level %q: want debug, info, warn or error", c.String("log-level"))
	}
	return newHandler(c, level)
}

func newHandler(c *cli.Context, level slog.Level) (*slog.Logger, error) {
	options := &slog.HandlerOptions{Level: level}
	switch format := c.String("log-format"); format {
	case "text":
		return slog.New(slog.NewTextHandler(c.App.ErrWriter, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(c.App.ErrWriter, options)), nil
	default:
		return nil, Usage("--log-format %q: want text or json", format)
	}
}

// Progress returns where a verb tells a person how far it is: stderr, or nowhere under --quiet.
func Progress(c *cli.Context) io.Writer {
	if c.Bool("quiet") {
		return io.Discard
	}
	return c.App.ErrWriter
}

// showHelp prints the help of c's level to stderr: it answers a mistake, and stdout is for results.
func showHelp(c *cli.Context) error {
	writer := c.App.Writer
	c.App.Writer = c.App.ErrWriter
	defer func() { c.App.Writer = writer }()
	return cli.ShowSubcommandHelp(c)
}

// subcommands are the commands that can follow c's level.
func subcommands(c *cli.Context) []*cli.Command {
	if len(c.Command.Subcommands) > 0 {
		return c.Command.Subcommands
	}
	return c.App.Commands
}

// StateFlags say which state directory or configuration a verb works on.
func StateFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "dir", Usage: "state directory; its redoubt.yaml is the configuration", EnvVars: []string{"REDOUBT_DIR"}},
		&cli.StringFlag{Name: "socket", Usage: "socket of a server for its people (people.socket): ask it, without reading its configuration", EnvVars: []string{"REDOUBT_SOCKET"}},
		&cli.StringFlag{Name: "config", Usage: "configuration file (default /etc/redoubt/redoubt.yaml)", EnvVars: []string{"REDOUBT_CONFIG"}},
	}
}

// The configuration: in a state directory, and where no flag names one.
const (
	configFile        = "redoubt.yaml"
	defaultConfigPath = "/etc/redoubt/redoubt.yaml"
)

// ConfigPath finds the configuration: --config, else --dir, each from the nearest level of the command line that sets it.
// A flag in the command line counts before an environment variable.
func ConfigPath(c *cli.Context) string {
	for _, level := range c.Lineage() {
		if level.IsSet("config") {
			return level.String("config")
		}
		if level.IsSet("dir") {
			return filepath.Join(level.String("dir"), configFile)
		}
	}
	return defaultConfigPath
}
