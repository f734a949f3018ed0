package cmdline

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// Permute moves flags that follow an operand in front of it, so that `verify FILE --bundle B` and `verify --bundle B FILE`
// mean the same, and global flags that follow a verb in front of it; the parser underneath knows neither. Everything after
// `--` is an operand. Only the order changes: unknown flags stay where they are and are reported by the parser.
func Permute(global []cli.Flag, commands []*cli.Command, args []string) []string {
	if len(args) == 0 {
		return args
	}
	head, rest, flags := []string{}, args[1:], global
	before := []string{args[0]} // the program and the global flags
	take := func() {
		if n, known := flagWidth(flags, rest); known {
			head, rest = append(head, rest[:n]...), rest[n:]
		} else if n, known := flagWidth(global, rest); known {
			before, rest = append(before, rest[:n]...), rest[n:]
		} else {
			head, rest = append(head, rest[0]), rest[1:]
		}
	}
	for {
		for len(rest) > 0 && isFlag(rest[0]) {
			take()
		}
		if len(rest) == 0 {
			return append(before, head...)
		}
		next := slices.IndexFunc(commands, func(c *cli.Command) bool { return c.HasName(rest[0]) })
		if next < 0 {
			break
		}
		head, rest = append(head, rest[0]), rest[1:]
		flags, commands = commands[next].Flags, commands[next].Subcommands
	}
	var operands []string
	for len(rest) > 0 {
		switch {
		case rest[0] == "--":
			operands, rest = append(operands, rest[1:]...), nil
		case isFlag(rest[0]):
			take()
		default:
			operands, rest = append(operands, rest[0]), rest[1:]
		}
	}
	if len(operands) > 0 {
		head = append(append(head, "--"), operands...)
	}
	return append(before, head...)
}

func isFlag(arg string) bool { return len(arg) > 1 && arg[0] == '-' && arg != "--" }

// flagWidth says whether the flag at args[0] is one of flags, and how many arguments it takes up: itself, and its value when
// that stands apart.
func flagWidth(flags []cli.Flag, args []string) (n int, known bool) {
	name, _, hasValue := strings.Cut(strings.TrimLeft(args[0], "-"), "=")
	for _, f := range flags {
		if slices.Contains(f.Names(), name) {
			if _, isBool := f.(*cli.BoolFlag); isBool || hasValue || len(args) == 1 {
				return 1, true
			}
			return 2, true
		}
	}
	return 1, false
}

// VerbOf is the verb of a command line, "" where it has none: the first that is neither a flag of every verb nor its value.
func VerbOf(args []string) string {
	for rest := args[min(1, len(args)):]; len(rest) > 0; {
		if !isFlag(rest[0]) {
			return rest[0]
		}
		n, _ := flagWidth(GlobalFlags(), rest)
		rest = rest[n:]
	}
	return ""
}
