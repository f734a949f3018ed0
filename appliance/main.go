// Package main is redoubt, the appliance: one command table, one configuration, one process that serves everything.
//
// It guarantees that every verb ends with an exit code of the documented table (exit.go), that results go to stdout and
// everything else to stderr, and that a panic ends with 70 and no verdict. It does not hold the meaning of any verb: a file
// verb_X.go turns flags into a call of the room that owns the matter. Verbs that need state go through call.go: the same
// function runs inside the serving process, reached over DIR/run/redoubt.sock, or here under the directory's lock.
//
// Start at commands() for the verbs, at config.go for the configuration, at open.go for how the rooms are wired together.
package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"syscall"

	"github.com/urfave/cli/v2"

	"redoubt.internal/log/strictyaml"
)

func main() {
	os.Exit(run(os.Args, os.Stdout, os.Stderr))
}

// run is main without the exit: it returns the process's exit code. SIGINT and SIGTERM end the context of the verb.
func run(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	return execute(ctx, newApp(stdout, stderr), args)
}

// execute runs one command line. A panic ends with its own code and never with a verdict.
func execute(ctx context.Context, app *cli.App, args []string) (code int) {
	defer func() {
		if p := recover(); p != nil {
			fmt.Fprintf(app.ErrWriter, "redoubt: internal error: %v\n%s", p, debug.Stack())
			code = exitPanic
		}
	}()
	return report(app.ErrWriter, app.RunContext(ctx, permute(app.Flags, app.Commands, args)))
}

func newApp(stdout, stderr io.Writer) *cli.App {
	return &cli.App{
		Name:  "redoubt",
		Usage: "Sigstore for networks with no way out: issue, record, carry across the gap, verify",
		Description: "redoubt holds the keys, issues short-lived code-signing certificates, records every signature in a Merkle log,\n" +
			"carries public log data across the air gap with proof, and verifies offline. `redoubt demo` shows all of it.",
		Version:                   versionString(),
		HideHelpCommand:           true,
		Suggest:                   true,
		DisableSliceFlagSeparator: true,
		Writer:                    stdout,
		ErrWriter:                 stderr,
		Flags:                     globalFlags(),
		Commands:                  commands(),
		ExitErrHandler:            func(*cli.Context, error) {},
		OnUsageError:              func(_ *cli.Context, err error, _ bool) error { return usage("%v", err) },
		CommandNotFound:           func(*cli.Context, string) {},
		Action:                    noVerb,
	}
}

// noVerb answers a missing or unknown verb at any level of the table.
func noVerb(c *cli.Context) error {
	if name := c.Args().First(); name != "" {
		var names []string
		for _, sub := range subcommands(c) {
			names = append(names, sub.Name)
		}
		return usage("%s has no command %q%s; `%s --help` lists the commands", c.Command.HelpName, name, strictyaml.Nearest(name, slices.Values(names)), c.Command.HelpName)
	}
	if err := showHelp(c); err != nil {
		return err
	}
	return usage("a command is missing")
}

// globalFlags stand before the verb; verbs that work on a state directory take --dir and --config after the verb as well.
func globalFlags() []cli.Flag {
	return append(stateFlags(),
		&cli.StringFlag{Name: "log-level", Usage: "debug, info, warn or error", Value: "info", EnvVars: []string{"REDOUBT_LOG_LEVEL"}},
		&cli.StringFlag{Name: "log-format", Usage: "text or json", Value: "text", EnvVars: []string{"REDOUBT_LOG_FORMAT"}},
		&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "no progress on stderr", EnvVars: []string{"REDOUBT_QUIET"}},
	)
}

// newLogger builds the one logger of the process from the global flags; rooms are handed it, none reaches for a global.
func newLogger(c *cli.Context) (*slog.Logger, error) {
	return loggerAt(c, slog.LevelInfo)
}

// loggerAt is newLogger with another level where --log-level was not given.
func loggerAt(c *cli.Context, level slog.Level) (*slog.Logger, error) {
	if !c.IsSet("log-level") {
		return newHandler(c, level)
	}
	if err := level.UnmarshalText([]byte(c.String("log-level"))); err != nil {
		return nil, usage("--log-level %q: want debug, info, warn or error", c.String("log-level"))
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
		return nil, usage("--log-format %q: want text or json", format)
	}
}

// progress returns where a verb tells a person how far it is: stderr, or nowhere under --quiet.
func progress(c *cli.Context) io.Writer {
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
