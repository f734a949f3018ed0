package main

import (
	"github.com/urfave/cli/v2"
	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/appliance/verifying"
)

// commands is the command table: one constructor per verb, each in its own verb_X.go.
func commands() []*cli.Command {
	return uniform([]*cli.Command{
		demoCommand(), initCommand(), serveCommand(), rolesCommand(), statusCommand(), doctorCommand(),
		identityCommand(), clientCommand(), signCommand(), attestFileCommand(), verifying.Command(verifying.Appliance{StateDir: configuredDir, Receipt: leaveReceipt}), policyCommand(), admissionCommand(), inventoryCommand(),
		keysCommand(), ceremonyCommand(), caCommand(), tsaCommand(), logCommand(), auditCommand(), trustCommand(), tlsCommand(), mirrorCommand(), approveCommand(), backupCommand(), standbyCommand(), stateCommand(), preflightCommand(), upgradeCommand(), uninstallCommand(),
		bundleCommand(), configCommand(), docsCommand(), completionCommand(), versionCommand(), workerCommand(), surveyCommand(),
	})
}

// uniform gives every command of the table the same manners: no help verb, mistakes that end with exit code 2 and leave
// stdout alone, a refusal of operands where none are named.
func uniform(table []*cli.Command) []*cli.Command {
	for _, c := range table {
		c.HideHelpCommand = true
		c.OnUsageError = func(_ *cli.Context, err error, _ bool) error { return cmdline.Usage("%v", err) }
		if uniform(c.Subcommands); len(c.Subcommands) > 0 && c.Action == nil {
			c.Action = cmdline.NoVerb
			continue
		}
		required, action := claimRequired(c.Flags), c.Action
		c.Action = func(ctx *cli.Context) error {
			if err := cmdline.CheckOutput(ctx); err != nil {
				return err
			}
			if ctx.Command.ArgsUsage == "" && ctx.NArg() > 0 {
				return cmdline.Usage("%s takes no operand, got %q", ctx.Command.HelpName, ctx.Args().First())
			}
			for _, name := range required {
				if !ctx.IsSet(name) {
					return cmdline.Usage("%s needs --%s", ctx.Command.HelpName, name)
				}
			}
			return action(ctx)
		}
	}
	return table
}

// claimRequired takes the check for required flags over from the library, which would print the help to stdout and know no
// exit code.
func claimRequired(flags []cli.Flag) (names []string) {
	for _, f := range flags {
		if s, ok := f.(*cli.StringFlag); ok && s.Required {
			s.Required, s.Usage = false, s.Usage+" (required)"
			names = append(names, s.Name)
		}
	}
	return names
}
