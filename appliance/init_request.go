package main

import "github.com/urfave/cli/v2"

// initRequest is what init needs to know.
type initRequest struct {
	Dir, Domain, Profile, Keys, PassphraseFile string
	TLSCert, TLSKey, TLSCA, Owner, Actor       string
	Address                                    string // of own ports; "" for host names on one
	FirstPort                                  int
	Plugin                                     string // SCHEME=PATH
	AllowSoftware                              bool
	adopted                                    *adopted // a ceremony held before
	TPMDevice, TPMAuthFile                     string
	TPMPlain                                   bool     // no encryption in sessions
	HighWater                                  []string // counters of a TPM
	OneTree                                    bool     // one artifact log for both wire formats
	Roles                                      *Roles   // users of the roles; nil for one process
	Approvers                                  *Approvers
}

// newInitRequest takes what the flags say.
func newInitRequest(c *cli.Context) (r initRequest, err error) {
	r = initRequest{
		Dir: c.String("dir"), Domain: c.String("domain"), Profile: c.String("profile"), Keys: c.String("keys"), Plugin: c.String("plugin"),
		PassphraseFile: c.String("passphrase-file"), AllowSoftware: c.Bool("allow-software-keys"),
		TLSCert: c.String("tls-cert"), TLSKey: c.String("tls-key"), TLSCA: c.String("tls-ca"), Address: c.String("address"), FirstPort: c.Int("first-port"), Owner: c.String("owner"), OneTree: c.Bool("one-tree"),
		TPMDevice: c.String("tpm-device"), TPMAuthFile: c.String("tpm-auth-file"), TPMPlain: c.Bool("tpm-plain-sessions"), HighWater: c.StringSlice("highwater"), Actor: localActor(),
	}
	roles, err := rolesOf(c)
	if err != nil {
		return r, err
	}
	if !c.Bool("one-process") && r.Owner == "" {
		r.Roles = roles
	}
	if r.Approvers, err = readApprovers(c.StringSlice("approver"), c.Int("approvals")); err != nil {
		return r, err
	}
	if folder := c.String("ceremony"); folder != "" {
		r.adopted, err = readAdopted(folder, &r)
	}
	return r, err
}
