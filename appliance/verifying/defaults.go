package verifying

import (
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/verify"
)

// Flags of verify that say who is accepted, each in its own way, and those that name roots.
var (
	certificateFlags = []string{"certificate-identity", "certificate-identity-regexp", "certificate-oidc-issuer", "certificate-oidc-issuer-regexp"}
	rootFlags        = []string{"setup", "trusted-root"}
	partFlags        = []string{"signature", "certificate", "rfc3161-timestamp", "log-entry"}
)

// leaveDefaults leaves aside what the environment says and the command line says in another way: a flag goes before a variable, of another kind too.
// What narrows a verdict (ages, a list of denied identities) is never left aside: beside a policy it is an error.
func leaveDefaults(c *cli.Context) error {
	who := [][]string{{"policy"}, {"key"}, {"accept"}, certificateFlags}
	for i, kind := range who {
		if !saidHere(c, kind) {
			continue
		}
		for j, other := range who {
			if i != j {
				leaveAside(c, other)
			}
		}
	}
	switch {
	case c.String("policy") != "": // it names its roots and types itself; by themselves those vouch for nobody
		leaveAside(c, rootFlags)
		leaveAside(c, []string{"type"})
	case c.String("accept") != "": // it may name several roots
	case saidHere(c, []string{"trusted-root", "mirror-root"}):
		leaveAside(c, []string{"setup"})
	case saidHere(c, []string{"setup"}):
		leaveAside(c, []string{"trusted-root"})
	}
	operand := c.Args().First()
	image := slices.ContainsFunc(sources, func(scheme string) bool { return strings.HasPrefix(operand, scheme) })
	switch {
	case strings.HasPrefix(operand, "git:"):
		leaveAside(c, append([]string{"bundle"}, partFlags...))
	case image, saidHere(c, []string{"bundle"}):
		leaveAside(c, partFlags)
	case saidHere(c, partFlags):
		leaveAside(c, []string{"bundle"})
	}
	return exclusive(c)
}

// exclusive refuses what is still said in two ways.
func exclusive(c *cli.Context) error {
	if c.String("policy") == "" {
		return nil
	}
	narrow := []string{"max-trust-age", "denied", "min-denied-version", "max-denied-age"}
	for _, other := range slices.Concat(certificateFlags, rootFlags, []string{"key", "accept", "type"}, narrow) {
		if isSaid(c, other) {
			return fmt.Errorf("%w: --policy says who is accepted under which root, of what age and by which list of denied identities; it excludes --%s%s", verify.ErrUsage, other, fromVariable(c, other))
		}
	}
	return nil
}

// fromVariable names the variable that a flag comes from, nothing where it is on the command line.
func fromVariable(c *cli.Context, name string) string {
	if saidHere(c, []string{name}) {
		return ""
	}
	return " (" + environmentOf(c, name) + " in the environment)"
}

// isSaid tells whether a flag has a value, from wherever.
func isSaid(c *cli.Context, name string) bool {
	switch v := c.Value(name).(type) {
	case cli.StringSlice:
		return len(v.Value()) > 0
	case string:
		return v != ""
	}
	return c.IsSet(name)
}

func isSaidAny(c *cli.Context, names []string) bool {
	return slices.ContainsFunc(names, func(name string) bool { return isSaid(c, name) })
}

// saidHere tells whether one of the flags has its value from the command line.
func saidHere(c *cli.Context, names []string) bool {
	return slices.ContainsFunc(names, func(name string) bool { return isSaid(c, name) && onCommandLine(c, name) })
}

// onCommandLine tells whether a flag stands on the command line. The library tells apart only whether it was set at all: what it knows of the
// environment, the field HasBeenSet that all its flags have, is hidden from it for the question.
func onCommandLine(c *cli.Context, name string) bool {
	set := reflect.ValueOf(flagOf(c, name)).Elem().FieldByName("HasBeenSet")
	defer set.SetBool(set.Bool())
	set.SetBool(false)
	return c.IsSet(name)
}

func flagOf(c *cli.Context, name string) cli.Flag {
	return c.Command.Flags[slices.IndexFunc(c.Command.Flags, func(f cli.Flag) bool { return f.Names()[0] == name })]
}

// environmentOf is the variable that is set for a flag.
func environmentOf(c *cli.Context, name string) string {
	for _, variable := range flagOf(c, name).(cli.DocGenerationFlag).GetEnvVars() {
		if os.Getenv(variable) != "" {
			return variable
		}
	}
	return ""
}

// leaveAside takes away what the environment says for these flags.
func leaveAside(c *cli.Context, names []string) {
	for _, name := range names {
		if !isSaid(c, name) || saidHere(c, []string{name}) {
			continue
		}
		empty := ""
		if _, list := c.Value(name).(cli.StringSlice); list {
			empty = cli.NewStringSlice().Serialize()
		}
		if err := c.Set(name, empty); err != nil {
			panic(err) // a flag of the command
		}
	}
}
