package cmdline

import "github.com/urfave/cli/v2"

// Uniform gives every command of the table the same manners: no help verb, mistakes that end with exit code 2 and leave
// stdout alone, a refusal of operands where none are named.
func Uniform(table []*cli.Command) []*cli.Command {
	for _, c := range table {
		c.HideHelpCommand = true
		c.OnUsageError = func(_ *cli.Context, err error, _ bool) error { return Usage("%v", err) }
		if Uniform(c.Subcommands); len(c.Subcommands) > 0 && c.Action == nil {
			c.Action = NoVerb
			continue
		}
		required, action := claimRequired(c.Flags), c.Action
		c.Action = func(ctx *cli.Context) error {
			if err := CheckOutput(ctx); err != nil {
				return err
			}
			if ctx.Command.ArgsUsage == "" && ctx.NArg() > 0 {
				return Usage("%s takes no operand, got %q", ctx.Command.HelpName, ctx.Args().First())
			}
			for _, name := range required {
				if !ctx.IsSet(name) {
					return Usage("%s needs --%s", ctx.Command.HelpName, name)
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
