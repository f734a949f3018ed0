package main

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// permute moves flags that follow an operand in front of it, so that `verify FILE --bundle B` and `verify --bundle B FILE`
// mean the same; the parser underneath stops at the first operand. Everything after `--` is an operand. Only the order
// changes: unknown flags stay where they are and are reported by the parser.
func permute(flags []cli.Flag, commands []*cli.Command, args []string) []string {
	if len(args) == 0 {
		return args
	}
	head, rest := []string{args[0]}, args[1:]
	for {
		// Flags before the next verb belong to the level reached so far.
		for len(rest) > 0 && isFlag(rest[0]) {
			n := flagWidth(flags, rest)
			head, rest = append(head, rest[:n]...), rest[n:]
		}
		if len(rest) == 0 {
			return head
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
			n := flagWidth(flags, rest)
			head, rest = append(head, rest[:n]...), rest[n:]
		default:
			operands, rest = append(operands, rest[0]), rest[1:]
		}
	}
	if len(operands) == 0 {
		return head
	}
	return append(append(head, "--"), operands...)
}

func isFlag(arg string) bool { return len(arg) > 1 && arg[0] == '-' && arg != "--" }

// flagWidth says how many arguments the flag at args[0] takes up: itself, and its value when that stands apart.
func flagWidth(flags []cli.Flag, args []string) int {
	name := strings.TrimLeft(args[0], "-")
	if strings.Contains(name, "=") || len(args) == 1 {
		return 1
	}
	for _, f := range flags {
		if slices.Contains(f.Names(), name) {
			if _, isBool := f.(*cli.BoolFlag); isBool {
				return 1
			}
			return 2
		}
	}
	return 1
}
