package installer_test

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the units of the roles anew")

// roleUnit is what is particular to the unit of a role.
type roleUnit struct {
	what       string
	writes     string // below /var/lib/redoubt
	marks      string // high-water file
	port       bool   // listens where only a capability lets it
	credential bool   // signs
	enabled    bool   // by the operator, where it is wanted; redoubt.target wants the others
}

// roleUnits are the roles that have units. The gate of a cluster has a unit of its own, since it runs without the state directory.
var roleUnits = map[string]roleUnit{
	"ca":      {"certificates, the certificate log, the audit log, the mirror", "db mirror inbox backup approvals disk.json", ".highwater", false, true, false},
	"log":     {"the artifact logs", "db", ".highwater.log", false, true, false},
	"tsa":     {"timestamps", "db", "", false, true, false},
	"trust":   {"the trust repository", "tuf", "", false, true, false},
	"console": {"status page and metrics", "", "", false, false, false},
	"front":   {"the port that the roles share", "", "", true, false, false},
	"oidc":    {"the built-in issuer of the dev profile", "", "", false, true, true},
}

const unitText = `# Made by go test ./installer -run TestUnitsOfRoles -update
[Unit]
Description=Redoubt, role %[1]s: %[2]s
Documentation=file:/usr/share/redoubt/docs
After=network.target local-fs.target time-sync.target%[3]s
PartOf=redoubt.target
Conflicts=redoubt.service
ConditionPathIsDirectory=/var/lib/redoubt/run/%[1]s

[Service]
Type=notify
ExecStart=/usr/bin/redoubt serve --roles %[1]s --dir /var/lib/redoubt --log-format json
ExecReload=/bin/kill -HUP $MAINPID
Restart=on-failure
RestartSec=2
TimeoutStopSec=30
User=redoubt-%[1]s
Group=redoubt
UMask=0077
LimitCORE=0
LimitNOFILE=65536
Environment=GOGC=400
%[4]s
# The state directory is root's; this role writes where its own files are ("redoubt roles apart").
ReadWritePaths=%[5]s
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateMounts=yes

%[6]s
NoNewPrivileges=yes
PrivateDevices=yes
DevicePolicy=closed
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
ProcSubset=pid
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RemoveIPC=yes
KeyringMode=private
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
IPAddressDeny=any
IPAddressAllow=localhost link-local 10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 fc00::/7

[Install]
WantedBy=redoubt.target
`

const credentialText = `
# What unlocks this role's token, read by the service manager as root. A file that is not there is no credential.
LoadCredential=pin:/etc/redoubt/pin-%[1]s
SetCredential=pin:\n
LoadCredential=passphrase:/etc/redoubt/passphrase-%[1]s
SetCredential=passphrase:\n
`

func (u roleUnit) text(role string) string {
	after, credentials, capabilities := " redoubt-ca.service", "", "CapabilityBoundingSet="
	if role == "ca" {
		after = ""
	}
	if u.credential {
		credentials = fmt.Sprintf(credentialText, role)
	}
	if u.port {
		capabilities = "CapabilityBoundingSet=CAP_NET_BIND_SERVICE\nAmbientCapabilities=CAP_NET_BIND_SERVICE"
	}
	paths := []string{"/var/lib/redoubt/run/" + role}
	for name := range strings.FieldsSeq(u.writes) {
		paths = append(paths, "/var/lib/redoubt/"+name)
	}
	if u.credential {
		paths = append(paths, "-/var/lib/redoubt/keys/pins-"+role)
	}
	if u.marks != "" {
		paths = append(paths, "/var/lib/redoubt"+u.marks)
	}
	return fmt.Sprintf(unitText, role, u.what, after, credentials, strings.Join(paths, " "), capabilities)
}

// timerUnits are the units of what the ca role is asked for on a timer, out of those for one process: they run as the role's user, which its
// own process answers, and reach nothing but its socket.
func timerUnits(t *testing.T) map[string]string {
	units := map[string]string{}
	for _, what := range []string{"inbox", "reconcile"} {
		for _, kind := range []string{".service", ".timer"} {
			text, err := os.ReadFile(filepath.Join("files", "systemd", "redoubt-"+what+kind))
			if err != nil {
				t.Fatal(err)
			}
			var kept []string
			for line := range strings.Lines(string(text)) {
				if !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, "ConditionPathExists=!") && !strings.HasPrefix(line, "StateDirectory") && !strings.HasPrefix(line, "ReadWritePaths=") {
					kept = append(kept, line)
				}
			}
			of := strings.NewReplacer("After=redoubt.service", "After=redoubt-ca.service", "User=redoubt", "User=redoubt-ca", "redoubt/redoubt.yaml", "redoubt/run/ca")
			units["redoubt-ca-"+what+kind] = "# Made by go test ./installer -run TestUnitsOfRoles -update\n" + of.Replace(strings.Join(kept, ""))
		}
	}
	return units
}

// TestUnitsOfRoles keeps the units of the roles alike. That they are hardened, TestUnitsAreHardened asks systemd.
func TestUnitsOfRoles(t *testing.T) {
	units := timerUnits(t)
	for role, u := range roleUnits {
		units["redoubt-"+role+".service"] = u.text(role)
	}
	for name, text := range units {
		file := filepath.Join("files", "systemd", name)
		if *update {
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if have, err := os.ReadFile(file); err != nil || string(have) != text {
			t.Errorf("%s is not what the test would write (-update writes it): %v", file, err)
		}
	}
	target, err := os.ReadFile(filepath.Join("files", "systemd", "redoubt.target"))
	if err != nil {
		t.Fatal(err)
	}
	for role, u := range roleUnits {
		if !u.enabled && !strings.Contains(string(target), " redoubt-"+role+".service") && !strings.Contains(string(target), "=redoubt-"+role+".service") {
			t.Errorf("redoubt.target does not want the role %s", role)
		}
	}
}

// TestUnitsVerify has systemd read every unit. It ends with 0 whatever it finds, so what counts is that it says nothing. A unit with a
// mistake, as the control, makes it speak.
func TestUnitsVerify(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Fatal("systemd-analyze is not installed: apt-get install systemd")
	}
	folder := t.TempDir()
	program := filepath.Join(folder, "redoubt")
	if err := os.WriteFile(program, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	var units []string
	for _, kind := range []string{"*.service", "*.target", "*.timer"} {
		found, err := filepath.Glob("files/systemd/" + kind)
		if err != nil {
			t.Fatal(err)
		}
		for _, unit := range found {
			text, err := os.ReadFile(unit)
			if err != nil {
				t.Fatal(err)
			}
			copied := filepath.Join(folder, filepath.Base(unit))
			// The program is not installed here, nor the pages.
			changed := strings.NewReplacer("/usr/bin/redoubt", program, "Documentation=file:/usr/share/redoubt/docs\n", "").Replace(string(text))
			if err := os.WriteFile(copied, []byte(changed), 0o644); err != nil {
				t.Fatal(err)
			}
			units = append(units, copied)
		}
	}
	verify := func(units ...string) string {
		cmd := exec.Command("systemd-analyze", append([]string{"verify", "--man=no"}, units...)...)
		cmd.Env = append(os.Environ(), "SYSTEMD_UNIT_PATH="+folder+":")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("systemd-analyze verify: %v", err)
		}
		var ours []string // of other units of this machine it speaks too
		for line := range strings.Lines(string(out)) {
			if strings.Contains(line, "redoubt") {
				ours = append(ours, line)
			}
		}
		return strings.Join(ours, "")
	}
	if said := verify(units...); said != "" {
		t.Errorf("systemd says:\n%s", said)
	}
	wrong := filepath.Join(folder, "redoubt-wrong.service")
	if err := os.WriteFile(wrong, []byte("[Service]\nExecStart="+program+"\nProtectSytsem=strict\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if verify(wrong) == "" {
		t.Error("systemd says nothing of a unit with a mistake")
	}
}
