package main

import "github.com/urfave/cli/v2"

// commands is the command table: one constructor per verb, each in its own verb_X.go.
func commands() []*cli.Command {
	return uniform([]*cli.Command{
		demoCommand(), initCommand(), serveCommand(), statusCommand(), doctorCommand(),
		identityCommand(), clientCommand(), signCommand(), verifyCommand(),
		keysCommand(), ceremonyCommand(), caCommand(), tsaCommand(), logCommand(), auditCommand(), trustCommand(), mirrorCommand(),
		bundleCommand(), configCommand(), docsCommand(), completionCommand(), versionCommand(),
	})
}

// uniform gives every command of the table the same manners: no help verb, usage errors that end with exit code 2, and a
// refusal of operands where none are named.
func uniform(table []*cli.Command) []*cli.Command {
	for _, c := range table {
		c.HideHelpCommand = true
		c.OnUsageError = func(_ *cli.Context, err error, _ bool) error { return usage("%v", err) }
		switch {
		case len(c.Subcommands) > 0:
			c.Action = noVerb
			uniform(c.Subcommands)
		case c.ArgsUsage == "":
			action := c.Action
			c.Action = func(ctx *cli.Context) error {
				if ctx.NArg() > 0 {
					return usage("%s takes no operand, got %q", ctx.Command.HelpName, ctx.Args().First())
				}
				return action(ctx)
			}
		}
	}
	return table
}
