package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"redoubt.internal/appliance/cmdline"
)

// The wizard of `redoubt init`: what no flag and no variable says is asked, at a terminal. Answers become flags, so that everything after
// it is the same with and without a person.

var errStopped = errors.New("nothing was made")

// answerInit sets what was not given. Without a terminal nothing is asked, and what must be given is missed by name.
func answerInit(c *cli.Context) error {
	a := newAsker(c)
	if a == nil {
		for _, name := range []string{"dir", "domain"} {
			if c.String(name) == "" {
				return cmdline.Usage("%s needs --%s", c.Command.HelpName, name)
			}
		}
		return clockFit(c)
	}
	w := wizard{asker: a, c: c}
	steps := []func() error{w.place}
	if c.String("profile") == profileProduction && !w.complete() {
		steps = append(steps, w.clock, w.keys, w.names, w.tls, w.owner, w.confirm)
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return clockFit(c)
}

// clockFit refuses to make certificates of a production site under a clock that cannot be right.
func clockFit(c *cli.Context) error {
	if c.String("profile") != profileProduction {
		return nil
	}
	return cmdline.Hinted(clockNear(clock(), sourceDate, c.Bool("accept-clock")), "look at a watch, then `date --set` and `hwclock --systohc`; if the clock is right, --accept-clock")
}

// wizard asks for one init.
type wizard struct {
	*asker
	c *cli.Context
}

// complete says whether everything that has no good default was given: then nobody is asked.
func (w *wizard) complete() bool {
	return w.c.IsSet("dir") && w.c.IsSet("domain") && w.c.IsSet("keys")
}

// Every question ends with the flag that answers it.
func (w *wizard) named(question, flag string) string { return question + " (--" + flag + ")" }

// want asks for a flag that was not given.
func (w *wizard) want(flag, question, def string, check func(string) error) error {
	if w.c.IsSet(flag) {
		return nil
	}
	answer, err := w.ask(w.named(question, flag), def, check)
	if err != nil || answer == "" {
		return err
	}
	return w.c.Set(flag, answer)
}

// choose offers numbered choices and returns the index of the one taken.
func (w *wizard) choose(flag, question string, choices []string, def int) (int, error) {
	for i, choice := range choices {
		fmt.Fprintf(w.out, "  %d  %s\n", i+1, choice)
	}
	answer, err := w.ask(w.named(question, flag), strconv.Itoa(def+1), func(s string) error {
		if n, err := strconv.Atoi(s); err != nil || n < 1 || n > len(choices) {
			return fmt.Errorf("a number from 1 to %d", len(choices))
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(answer)
	return n - 1, err
}

func (w *wizard) place() error {
	free := func(dir string) error {
		final, err := filepath.Abs(dir)
		if err != nil {
			return err
		}
		return checkFree(layout{final})
	}
	if err := w.want("dir", "State directory", defaultDir, free); err != nil {
		return err
	}
	return w.want("domain", "Domain of this deployment, part of the log origins for good (sigstore.corp.internal)", "", checkDomain)
}

func (w *wizard) clock() error {
	now := clock()
	fmt.Fprintf(w.out, "\nCertificates and timestamps carry the time of this machine: %s.\n", now.UTC().Format(time.RFC1123))
	if err := clockNear(now, sourceDate, false); err != nil {
		fmt.Fprintf(w.out, "  %v\n", err)
	}
	if !w.c.Bool("accept-clock") && !w.yes(w.named("Is that right?", "accept-clock")) {
		return cmdline.Hinted(fmt.Errorf("%w: the clock is not right", errStopped), "`date --set` and `hwclock --systohc`, then again")
	}
	return w.c.Set("accept-clock", "true")
}

// keys lists what was found and proposes the first that can be used.
func (w *wizard) keys() error {
	if w.c.IsSet("keys") || w.c.IsSet("ceremony") {
		return nil
	}
	fmt.Fprintln(w.out, "\nLooking for TPMs and for the PKCS#11 modules of HSMs; nothing is logged in to.")
	found := findTokens(w.c.Context, w.c.String("tpm-device"))
	var choices []string
	def := -1
	for i, f := range found {
		says := f.Says
		if f.Software {
			says += " (software)"
		}
		if f.Why != "" {
			says += ": " + f.Why
		} else if def < 0 {
			def = i
		}
		choices = append(choices, says)
	}
	choices = append(choices, "another one, by its URI", "software keys: whoever copies the disk has them")
	if def < 0 {
		def = len(found)
	}
	n, err := w.choose("keys", "Where the keys will live", choices, def)
	if err != nil {
		return err
	}
	switch {
	case n == len(found):
		return w.want("keys", "Its URI (pkcs11:token=NAME?module-path=PATH&pin-source=FILE, tpm:device=PATH, hashivault://...)", "", func(s string) error {
			if !isKeyURI(s) && !strings.Contains(s, ":") {
				return errors.New("a URI has a scheme")
			}
			return nil
		})
	case n > len(found):
		return errors.Join(w.c.Set("keys", "soft:"), w.c.Set("allow-software-keys", "true"))
	}
	if found[n].Software {
		fmt.Fprintln(w.out, "This token keeps its keys in files of this machine: good for a trial.")
		if err := w.c.Set("allow-software-keys", "true"); err != nil {
			return err
		}
	}
	return w.secret(found[n].Keys)
}

// secret asks where the PIN or the authorisation value is; it is never typed here.
func (w *wizard) secret(keys string) error {
	if isTPM(keys) {
		if err := w.want("tpm-auth-file", "File of the authorisation value of keys in the TPM (empty: none)", "", optionalSecret); err != nil {
			return err
		}
		return w.c.Set("keys", keys)
	}
	pin, err := w.ask(w.named("File that holds its PIN, mode 0600", "keys"), "", func(s string) error {
		if s == "" {
			return errors.New("the PIN is read from a file at each start")
		}
		return optionalSecret(s)
	})
	if err != nil {
		return err
	}
	if pin, err = filepath.Abs(pin); err != nil {
		return err
	}
	return w.c.Set("keys", keys+"&pin-source="+escapeURI(pin))
}

func optionalSecret(path string) error {
	if path == "" {
		return nil
	}
	return closed(0o077, path)
}

// names chooses between host names on one port and own ports on an address.
func (w *wizard) names() error {
	if w.c.IsSet("address") {
		return nil
	}
	fmt.Fprintln(w.out, "")
	n, err := w.choose("address", "How clients reach the services", []string{
		"by host names on port 443: fulcio., rekor., tsa., ct., tuf., mirror." + w.c.String("domain") + " (needs DNS or /etc/hosts)", "by ports of their own on an IP address of this machine, without DNS"}, 0)
	if err != nil || n == 0 {
		return err
	}
	if err := w.want("address", "IP address", firstAddress(), func(s string) error {
		r := initRequest{Address: s, FirstPort: w.c.Int("first-port")}
		if s == "" {
			return errors.New("the address that clients reach this machine at")
		}
		return r.checkPorts()
	}); err != nil {
		return err
	}
	return w.want("first-port", "First port", strconv.Itoa(w.c.Int("first-port")), func(s string) error { _, err := strconv.Atoi(s); return err })
}

// firstAddress is an address of this machine that is not loopback.
func firstAddress() string {
	addresses, _ := net.InterfaceAddrs()
	for _, a := range addresses {
		if n, ok := a.(*net.IPNet); ok && !n.IP.IsLoopback() && !n.IP.IsLinkLocalUnicast() {
			return n.IP.String()
		}
	}
	return ""
}

func (w *wizard) tls() error {
	if w.c.IsSet("tls-cert") {
		return nil
	}
	fmt.Fprintln(w.out, "")
	n, err := w.choose("tls-cert", "Certificates of the listeners", []string{"made here, below a TLS root for this site's names alone, and renewed by themselves", "a certificate of the site's own, in PEM"}, 0)
	if err != nil || n == 0 {
		return err
	}
	there := func(path string) error { _, err := os.Stat(path); return err }
	if err := w.want("tls-cert", "Certificate chain (PEM)", "", there); err != nil {
		return err
	}
	if err := w.want("tls-key", "Its key: a PEM file, or the URI of a key in a token", "", func(s string) error {
		if isKeyURI(s) {
			return nil
		}
		return there(s)
	}); err != nil {
		return err
	}
	return w.want("tls-ca", "The CA that signed it, for clients (PEM; empty: they know it)", "", func(s string) error {
		if s == "" {
			return nil
		}
		return there(s)
	})
}

// owner chooses between processes and users of their own for the roles, and one of both.
func (w *wizard) owner() error {
	if w.c.IsSet("owner") || w.c.IsSet("one-process") || os.Geteuid() != 0 {
		return nil
	}
	fmt.Fprintln(w.out, "")
	n, err := w.choose("one-process", "How the server runs", []string{"each role in a process and under a user of its own", "one process, under one user"}, 0)
	if err != nil || n == 0 {
		return err
	}
	if err := w.want("owner", "User that will run the server", "redoubt", func(s string) error { _, err := user.Lookup(s); return err }); err != nil {
		return err
	}
	return w.c.Set("one-process", "true")
}

// confirm shows the command that does the same without questions, and asks once more.
func (w *wizard) confirm() error {
	fmt.Fprintf(w.out, "\nThe same without questions:\n  redoubt init --non-interactive%s\n", given(w.c))
	if !w.yes(w.named("Hold the ceremony and make it?", "non-interactive")) {
		return errStopped
	}
	return nil
}

// given are the flags of this command as a shell takes them, whether they were given, answered or found in the environment.
func given(c *cli.Context) string {
	var line strings.Builder
	for _, flag := range c.Command.Flags {
		name := flag.Names()[0]
		if !c.IsSet(name) || name == "non-interactive" || name == "output" {
			continue
		}
		switch flag.(type) {
		case *cli.BoolFlag:
			fmt.Fprintf(&line, " --%s=%t", name, c.Bool(name))
		case *cli.StringSliceFlag:
			for _, value := range c.StringSlice(name) {
				fmt.Fprintf(&line, " --%s %s", name, shellQuote(value))
			}
		default:
			fmt.Fprintf(&line, " --%s %s", name, shellQuote(fmt.Sprint(c.Value(name))))
		}
	}
	return line.String()
}

// shellQuote writes a word for sh(1).
func shellQuote(word string) string { return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'" }

// tokenProposals are --keys of what was found here, for somebody who named none.
func tokenProposals(ctx context.Context, device string) string {
	var lines []string
	for _, f := range findTokens(ctx, device) {
		if f.Why == "" {
			lines = append(lines, fmt.Sprintf("--keys '%s'  (%s)", f.Keys, f.Says))
		}
	}
	if len(lines) == 0 {
		return ""
	}
	return "; found on this machine:\n  " + strings.Join(lines, "\n  ")
}
