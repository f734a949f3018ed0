package main

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/hsm"
)

// Roles lets the roles of the server run as processes of their own (`redoubt serve --roles ca`), each under a user of its own that can
// read the keys of its role alone. `redoubt roles apart` gives the files to these users.
type Roles struct {
	// Group is the group that all these users are in, a name or a number: it reads the configuration and what is in pki/, and reaches the
	// sockets the roles talk over.
	Group string `yaml:"group"`
	// Users is the user of each role (ca, log, tsa, trust, oidc, console, admission, front), a name or a number. No two roles share one.
	Users map[string]string `yaml:"users"`
}

// check refuses users that would not keep roles apart.
func (r *Roles) check() (problems []error) {
	if r == nil {
		return nil
	}
	bad := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if r.Group == "" {
		bad("roles.group: missing")
	}
	taken := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(r.Users)) {
		who := r.Users[name]
		if !slices.Contains(partNames, name) {
			bad("roles.users.%s: no such role; roles are %s", name, strings.Join(partNames, ", "))
		}
		if other, ok := taken[who]; ok || who == "" || who == "root" || who == "0" {
			bad("roles.users.%s: %q is nobody, root, or the user of another role (%s); what one role can read, the other must not", name, who, other)
		}
		taken[who] = name
	}
	for _, name := range partNames {
		if r.Users[name] == "" {
			bad("roles.users.%s: missing", name)
		}
	}
	return problems
}

// defaultRoles are the users that installing makes.
func defaultRoles() *Roles {
	r := &Roles{Group: "redoubt", Users: map[string]string{}}
	for _, name := range partNames {
		r.Users[name] = "redoubt-" + name
	}
	return r
}

// uid is the user of a role. A number needs no entry in the machine's list of users.
func (r *Roles) uid(part string) (int, error) {
	who := r.Users[part]
	if n, err := strconv.ParseUint(who, 10, 31); err == nil {
		return int(n), nil
	}
	u, err := user.Lookup(who)
	if err != nil {
		return 0, cmdline.Hinted(fmt.Errorf("roles.users.%s: %w", part, err), "`systemd-sysusers` makes the users of the roles from /usr/lib/sysusers.d/redoubt.conf")
	}
	return strconv.Atoi(u.Uid)
}

// gid is the group all roles are in.
func (r *Roles) gid() (int, error) {
	if n, err := strconv.ParseUint(r.Group, 10, 31); err == nil {
		return int(n), nil
	}
	g, err := user.LookupGroup(r.Group)
	if err != nil {
		return 0, cmdline.Hinted(fmt.Errorf("roles.group: %w", err), "`systemd-sysusers` makes the users of the roles from /usr/lib/sysusers.d/redoubt.conf")
	}
	return strconv.Atoi(g.Gid)
}

// partOf is the role whose user has a uid; "" of anybody else.
func (r *Roles) partOf(uid int) string {
	for _, name := range partNames {
		if id, err := r.uid(name); err == nil && id == uid {
			return name
		}
	}
	return ""
}

// rolePlace stands in keys.token for the role that signs with a key, so that each role has a token, and a PIN, of its own:
// pkcs11:token=redoubt-{role}?module-path=PATH&pin-source=/etc/redoubt/pin-{role}. The root's is root.
const rolePlace = "{role}"

// of are the keys as a process with the roles p opens them. What unlocks them is read from the credential its unit loads (pin,
// passphrase, tpm-auth, vault), else from FILE.<role> where that is there, else from FILE.
func (k Keys) of(p parts, dir layout) Keys {
	if p == nil {
		return k
	}
	k.PINFile, k.PassphraseFile = p.secret("pin", k.PINFile, dir), p.secret("passphrase", k.PassphraseFile, dir)
	if k.TPM != nil {
		t := *k.TPM
		t.AuthFile, k.TPM = p.secret("tpm-auth", t.AuthFile, dir), &t
	}
	if k.Vault != nil {
		v := *k.Vault
		v.TokenFile, v.SecretIDFile, v.KeyFile = p.secret("vault", v.TokenFile, dir), p.secret("vault", v.SecretIDFile, dir), p.secret("vault", v.KeyFile, dir)
		k.Vault = &v
	}
	return k
}

func (p parts) secret(credential, file string, dir layout) string {
	if path, err := hsm.CredentialPath(credential); err == nil && (file != "" || credential == "pin") {
		if text, err := os.ReadFile(path); err == nil && len(bytes.TrimSpace(text)) > 0 { // a unit's credential is blank where its file is not there
			return path
		}
	}
	for _, part := range partNames {
		if path := file + "." + part; file != "" && p[part] && fileExists(strings.TrimPrefix(secretPath(dir, path), sealedPrefix)) {
			return path
		}
	}
	return file
}

// latches is where a process with the roles p remembers refused PINs.
func (l layout) latches(p parts) string {
	for _, part := range partNames {
		if p != nil && p[part] {
			return filepath.Join(l.keys(), "pins-"+part)
		}
	}
	return l.keys()
}
