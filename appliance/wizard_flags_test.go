package main

import (
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/urfave/cli/v2"
)

// atTerminal lets init ask at a terminal, and says what came of it: the request, and all that stood on the terminal.
func atTerminal(t *testing.T, person func(*terminal), arguments ...string) (request initRequest, seen string) {
	t.Helper()
	sits, program := openTerminal(t)
	app := newApp(io.Discard, program)
	app.Reader = program
	init := app.Commands[slices.IndexFunc(app.Commands, func(c *cli.Command) bool { return c.Name == "init" })]
	init.Action = func(c *cli.Context) (err error) {
		if err = answerInit(c); err == nil {
			request, err = newInitRequest(c)
		}
		return err
	}
	ended := make(chan error, 1)
	go func() {
		ended <- app.RunContext(t.Context(), append([]string{"redoubt", "init"}, arguments...))
		program.Close()
	}()
	person(sits)
	err := <-ended
	<-sits.closed
	sits.mu.Lock()
	defer sits.mu.Unlock()
	if err != nil {
		t.Fatalf("%v\n%s", err, sits.seen.String())
	}
	return request, sits.seen.String()
}

// flagsAsked are the flags that the questions on a terminal name.
func flagsAsked(seen string) (flags []string) {
	for _, m := range regexp.MustCompile(`\(--([a-z-]+)\)`).FindAllStringSubmatch(seen, -1) {
		flags = append(flags, m[1])
	}
	slices.Sort(flags)
	return slices.Compact(flags)
}

// words are those of a command line, as sh(1) reads it.
func words(t *testing.T, line string) []string {
	t.Helper()
	out, err := exec.Command("sh", "-c", `printf '%s\n' `+line).Output()
	must(t, err)
	return strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
}

// TestWizardFlags: whatever way a person takes, every question names its flag, the command that is printed at the end asks nothing and
// leads to the same, and so do the variables of its flags.
func TestWizardFlags(t *testing.T) {
	t.Setenv("SOFTHSM2_CONF", os.DevNull) // tokens of this machine are no matter of this test
	dir := t.TempDir()
	site, _ := siteCertificate(t, dir, "fulcio.corp.internal")
	auth := filepath.Join(dir, "it's the authorisation")
	must(t, os.WriteFile(auth, []byte("secret\n"), 0o600))
	socket := softwareTPM(t)
	begin := func(p *terminal) {
		p.answers(t, "(--dir)", filepath.Join(dir, "state"))
		p.answers(t, "(--domain)", "corp.internal")
		p.answers(t, "(--accept-clock)", "yes")
	}
	end := func(p *terminal) {
		if os.Geteuid() == 0 {
			p.picks(t, "(--one-process)", "one process")
			p.answers(t, "(--owner)", "root")
		}
		p.answers(t, "(--non-interactive)", "yes")
	}
	for name, way := range map[string]struct {
		arguments []string
		person    func(*terminal)
		want      initRequest // what this way is about
	}{
		"host names, the site's certificate, a TPM": {[]string{"--tpm-device", socket}, func(p *terminal) {
			p.picks(t, "(--keys)", "TPM at "+socket+" (software)")
			p.answers(t, "(--tpm-auth-file)", auth+".nosuch")
			p.answers(t, "(--tpm-auth-file)", auth)
			p.picks(t, "(--address)", "by host names")
			p.picks(t, "(--tls-cert)", "the site's own")
			p.answers(t, "(--tls-cert)", site.Cert+".nosuch")
			p.answers(t, "(--tls-cert)", site.Cert)
			p.answers(t, "(--tls-key)", site.Key)
			p.answers(t, "(--tls-ca)", site.Cert)
		}, initRequest{Keys: "tpm:device=" + socket, TPMAuthFile: auth, AllowSoftware: true, TLSCert: site.Cert, TLSKey: site.Key, TLSCA: site.Cert, FirstPort: 8441}},
		"own ports, a TLS root made here, software keys": {nil, func(p *terminal) {
			p.picks(t, "(--keys)", "software keys")
			p.picks(t, "(--address)", "by ports of their own")
			p.answers(t, "(--address)", "127.0.0.1")
			p.answers(t, "(--first-port)", "9001")
			p.picks(t, "(--tls-cert)", "made here")
		}, initRequest{Keys: "soft:", AllowSoftware: true, Address: "127.0.0.1", FirstPort: 9001}},
		"a token by its URI, flags besides": {[]string{"--role-user", "ca=1001", "--role-user", "log=1002", "--one-tree", "--first-port", "9100"}, func(p *terminal) {
			p.picks(t, "(--keys)", "by its URI")
			p.answers(t, "(--keys)", "no scheme")
			p.answers(t, "(--keys)", "hashivault://redoubt-?address=https://vault.corp.internal&ca-file=/etc/it's/ca.pem")
			p.picks(t, "(--address)", "by host names")
			p.picks(t, "(--tls-cert)", "the site's own")
			p.answers(t, "(--tls-cert)", site.Cert)
			p.answers(t, "(--tls-key)", "pkcs11:token=web;object=tls")
			p.answers(t, "(--tls-ca)", "")
		}, initRequest{Keys: "hashivault://redoubt-?address=https://vault.corp.internal&ca-file=/etc/it's/ca.pem", OneTree: true, TLSCert: site.Cert, TLSKey: "pkcs11:token=web;object=tls", FirstPort: 9100}},
	} {
		t.Run(name, func(t *testing.T) {
			request, seen := atTerminal(t, func(p *terminal) { begin(p); way.person(p); end(p) }, append([]string{"--profile", "production"}, way.arguments...)...)
			got := initRequest{Keys: request.Keys, TPMAuthFile: request.TPMAuthFile, AllowSoftware: request.AllowSoftware, OneTree: request.OneTree,
				TLSCert: request.TLSCert, TLSKey: request.TLSKey, TLSCA: request.TLSCA, Address: request.Address, FirstPort: request.FirstPort}
			if !reflect.DeepEqual(got, way.want) {
				t.Errorf("the answers led to %+v, want %+v", got, way.want)
			}
			for _, flag := range flagsAsked(seen) {
				i := slices.IndexFunc(initCommand().Flags, func(f cli.Flag) bool { return slices.Contains(f.Names(), flag) })
				if i < 0 {
					t.Errorf("a question names --%s, which is no flag", flag)
				} else if variables := initCommand().Flags[i].(cli.DocGenerationFlag).GetEnvVars(); !slices.Contains(variables, variableOf(flag)) {
					t.Errorf("--%s has the variables %v", flag, variables)
				}
			}
			_, line, _ := strings.Cut(seen, "The same without questions:")
			line, _, _ = strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "redoubt init"), "\r\n")
			printed := words(t, line)
			nobody := func(*terminal) {}
			if again, said := atTerminal(t, nobody, printed...); !reflect.DeepEqual(again, request) || len(flagsAsked(said)) > 0 {
				t.Errorf("%q leads to %+v, want %+v; it says %s", printed, again, request, said)
			}
			for i := 0; i < len(printed); i++ {
				flag, value, both := strings.Cut(strings.TrimPrefix(printed[i], "--"), "=")
				switch {
				case flag == "non-interactive" || flag == "role-user": // is repeated
					continue
				case !both:
					i++
					value = printed[i]
				}
				t.Setenv(variableOf(flag), value)
			}
			few := slices.DeleteFunc(slices.Clone(way.arguments), func(a string) bool { return !strings.Contains(a, "role-user") && !strings.Contains(a, "=100") })
			if again, said := atTerminal(t, nobody, few...); !reflect.DeepEqual(again, request) || len(flagsAsked(said)) > 0 {
				t.Errorf("the variables lead to %+v, want %+v; it says %s", again, request, said)
			}
			os.Unsetenv("REDOUBT_DOMAIN")
			again, said := atTerminal(t, func(p *terminal) {
				p.answers(t, "(--domain)", "corp.internal")
				if request.Address == "" { // nothing says host names, but not to be asked
					p.answers(t, "(--address)", "")
				}
				if request.TLSCert == "" {
					p.answers(t, "(--tls-cert)", "")
				}
				p.answers(t, "(--non-interactive)", "yes")
			}, few...)
			if !reflect.DeepEqual(again, request) {
				t.Errorf("with the domain typed it leads to %+v, want %+v; it says %s", again, request, said)
			}
		})
	}
}

// variableOf is the environment variable of a flag.
func variableOf(flag string) string {
	return "REDOUBT_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// softwareTPM runs a TPM of software and returns its socket.
func softwareTPM(t *testing.T) (socket string) {
	t.Helper()
	dir := t.TempDir()
	socket = filepath.Join(dir, "s")
	command := exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+dir, "--server", "type=unixio,path="+socket, "--ctrl", "type=unixio,path="+socket+".ctrl", "--flags", "startup-clear,not-need-init")
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(t, command.Start())
	t.Cleanup(func() { command.Process.Kill(); command.Wait() })
	for range 500 {
		if conn, err := net.Dial("unix", socket); err == nil {
			conn.Close()
			return socket
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("swtpm did not come up")
	return ""
}
