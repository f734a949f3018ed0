package cmdline

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
)

// OutputFlag is `-o text|json` of every verb that prints a result.
func OutputFlag() cli.Flag {
	return &cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "text", Usage: "text or json", EnvVars: []string{"REDOUBT_OUTPUT"}}
}

// CheckOutput refuses an unknown --output before a verb has done anything.
func CheckOutput(c *cli.Context) error {
	switch format := c.String("output"); {
	case format == "", format == "text", format == "json", format == "sarif" && c.Command.HelpName == c.App.Name+" verify":
		return nil
	default:
		return Usage("-o %q: want text or json", format)
	}
}

// PrintResult writes v to stdout: as indented JSON, alone, under -o json, else by text.
func PrintResult(c *cli.Context, v any, text func(w io.Writer)) error {
	switch format := c.String("output"); format {
	case "text":
		text(c.App.Writer)
		return nil
	case "json":
		return PrintJSON(c, v)
	default:
		return Usage("-o %q: want text or json", format)
	}
}

// PrintJSON writes v to stdout as indented JSON.
func PrintJSON(c *cli.Context, v any) error {
	out, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding the result: %w", err)
	}
	_, err = fmt.Fprintf(c.App.Writer, "%s\n", out)
	return err
}

// IsTerminal reports whether a person reads w as it is written.
func IsTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
