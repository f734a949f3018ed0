package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/ca/ceremony"
	"redoubt.internal/hsm"
)

func ceremonyPlanCommand() *cli.Command {
	text := func(name, use string) cli.Flag {
		return &cli.StringFlag{Name: name, Usage: use, EnvVars: []string{envName(name)}}
	}
	list := func(name, use string) cli.Flag {
		return &cli.StringSliceFlag{Name: name, Usage: use, EnvVars: []string{envName(name)}}
	}
	return &cli.Command{
		Name: "plan", Usage: "print a plan with every field explained, to be edited, read aloud and kept", Action: ceremonyPlan,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "kind", Value: string(ceremony.Found), Usage: "found, offline-root, rotate, rotate-root, cross-sign or custodians", EnvVars: []string{"REDOUBT_KIND"}},
			&cli.StringFlag{Name: "domain", Required: true, Usage: "DNS domain of the deployment", EnvVars: []string{"REDOUBT_DOMAIN"}},
			&cli.StringFlag{Name: "profile", Value: profileDev, Usage: "dev or production", EnvVars: []string{"REDOUBT_PROFILE"}},
			&cli.StringFlag{Name: "keys", Value: "soft:", Usage: "token that holds the keys", EnvVars: []string{"REDOUBT_KEYS"}},
			text("root-keys", "token of the root key, where it is another (offline-root: the one of the offline machine)"),
			text("successor-keys", "token of a root-successor's key: makes one, cross-signed by the root"),
			list("role", "rotate, rotate-root: ROLE or ROLE=URI, for each new key"),
			text("authority-key", "URI of the existing key that signs"),
			&cli.BoolFlag{Name: "authority-offline", Usage: "that key is on a machine without network: requests out, certificates back", EnvVars: []string{"REDOUBT_AUTHORITY_OFFLINE"}},
			text("authority-chain", "PEM file: its certificate first, the root last"),
			text("subject", "cross-sign: PEM file of the other party's root"),
			list("operator", "file that `ceremony operator` printed, for each operator"),
			&cli.IntFlag{Name: "threshold", Usage: "how many operators must approve (default: more than half)", EnvVars: []string{"REDOUBT_THRESHOLD"}},
			registerFlag(),
			text("backup", "none, wrapped or cloned: the vendor's copy of the new keys, declared"),
			list("backup-holder", "who keeps it"),
			text("backup-place", "where it is kept"),
			text("action", "custodians: found, enrol, replace, lose, remove, successor, claim or takeover"),
			text("member", "custodians: whom enrol, replace, lose and remove are about"),
			text("reason", "custodians: why, in a line"),
			&cli.IntFlag{Name: "wait-days", Usage: "custodians: days between the emergency set's claim and its takeover", EnvVars: []string{"REDOUBT_WAIT_DAYS"}},
		},
	}
}

// envName is the environment variable of a flag.
func envName(flag string) string {
	return "REDOUBT_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

func ceremonyPlan(c *cli.Context) error {
	plan, err := draftPlan(c)
	if err != nil {
		return err
	}
	if err := plan.Validate(); err != nil {
		return cmdline.Usage("%v", err)
	}
	_, err = c.App.Writer.Write(plan.YAML())
	return err
}

// draftPlan puts a plan together from the flags.
func draftPlan(c *cli.Context) (plan ceremony.Plan, err error) {
	kind, domain := ceremony.Kind(c.String("kind")), c.String("domain")
	register, err := readRegister(c)
	if err != nil {
		return plan, err
	}
	people, err := readOperators(c)
	if err != nil {
		return plan, err
	}
	if kind == ceremony.Custodians {
		plan = ceremony.Plan{Version: 1, Kind: kind, Domain: domain}
		plan.Custodians, err = draftChange(c, register, people)
		plan.Profile = c.String("profile")
		return plan, err
	}
	switch kind {
	case ceremony.Found, ceremony.OfflineRoot:
		plan = ceremony.Default(domain, func(role string) string { return roleURI(c, role) })
		plan.Kind = kind
	case ceremony.Rotate, ceremony.RotateRoot:
		if plan, err = draftRotation(c, kind, domain); err != nil {
			return plan, err
		}
	case ceremony.CrossSign:
		plan = ceremony.Plan{Version: 1, Kind: kind, Domain: domain, Organization: domain, BackdateSeconds: 60}
		plan.Certificates.Cross = &ceremony.CrossPlan{Days: 1826}
		pem, err := readOptional(c, "subject")
		if err != nil {
			return plan, err
		}
		plan.Subject = &ceremony.Subject{Certificate: string(pem)}
	default:
		return plan, cmdline.Usage("--kind %q: known are %v", kind, ceremony.Kinds())
	}
	plan.Profile = c.String("profile")
	if uri := c.String("successor-keys"); uri != "" {
		plan.Keys.Successor = &ceremony.KeyPlan{URI: keyURI(uri, ceremony.RoleSuccessor), Algorithm: hsm.ECDSAP384}
		plan.Certificates.Successor = &ceremony.CertificatePlan{CommonName: "Redoubt Root Successor", Days: 7305}
		plan.Certificates.Cross = &ceremony.CrossPlan{Days: 3653}
	}
	if plan.Authority, err = readAuthority(c); err != nil {
		return plan, err
	}
	if profile := c.String("backup"); profile != "" {
		plan.Backup = &ceremony.Backup{Profile: profile, Holders: c.StringSlice("backup-holder"), Place: c.String("backup-place")}
	}
	switch {
	case register != nil && len(people) > 0:
		return plan, cmdline.Usage("--register says who the operators are; --operator belongs to a deployment without one")
	case register != nil:
		plan.Operators = register.Operators()
	case len(people) > 0:
		plan.Operators = &ceremony.Operators{Threshold: threshold(c, len(people)), Members: people}
	}
	return plan, nil
}

// roleURI is where a role's key goes.
func roleURI(c *cli.Context, role string) string {
	if uri := c.String("root-keys"); uri != "" && role == ceremony.RoleRoot {
		return keyURI(uri, role)
	}
	return keyURI(c.String("keys"), role)
}

// draftRotation is a plan of new keys for --role ROLE or ROLE=URI; a new root is always among those of rotate-root.
func draftRotation(c *cli.Context, kind ceremony.Kind, domain string) (ceremony.Plan, error) {
	keys := map[string]ceremony.KeyPlan{}
	for _, text := range c.StringSlice("role") {
		role, uri, given := strings.Cut(text, "=")
		if !given {
			uri = keyURI(c.String("keys"), role+"-new")
		}
		alg := ceremony.AllowedAlgorithms(role)[0]
		if role == ceremony.RoleOIDC {
			alg = hsm.RSA3072
		}
		keys[role] = ceremony.KeyPlan{URI: uri, Algorithm: alg}
	}
	if kind == ceremony.Rotate {
		return ceremony.Rotation(domain, nil, keys), nil
	}
	root := ceremony.KeyPlan{URI: keyURI(orDefault(c.String("root-keys"), c.String("keys")), ceremony.RoleRoot+"-new"), Algorithm: hsm.ECDSAP384}
	if given, ok := keys[ceremony.RoleRoot]; ok {
		root.URI = given.URI
		delete(keys, ceremony.RoleRoot)
	}
	plan := ceremony.Rotation(domain, nil, keys)
	plan.Kind, plan.Keys.Root = kind, &root
	plan.Certificates.Root = &ceremony.CertificatePlan{CommonName: "Redoubt Root 2", Days: 3653}
	plan.Certificates.Cross = &ceremony.CrossPlan{Days: 1826}
	return plan, nil
}

func readAuthority(c *cli.Context) (*ceremony.Authority, error) {
	chain, err := readOptional(c, "authority-chain")
	if err != nil {
		return nil, err
	}
	uri := c.String("authority-key")
	if (uri == "") != (chain == nil) {
		return nil, cmdline.Usage("--authority-key and --authority-chain belong together")
	}
	if uri == "" {
		return nil, nil
	}
	return &ceremony.Authority{URI: uri, Chain: string(chain), Offline: c.Bool("authority-offline")}, nil
}

func readRegister(c *cli.Context) (*ceremony.Register, error) {
	data, err := readOptional(c, "register")
	if err != nil || data == nil {
		return nil, err
	}
	return ceremony.ParseRegister(data)
}

func readOperators(c *cli.Context) (people []ceremony.Operator, err error) {
	for _, path := range c.StringSlice("operator") {
		data, err := readRecord(path)
		if err != nil {
			return nil, fmt.Errorf("--operator: %w", err)
		}
		o, err := ceremony.ParseOperator(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		people = append(people, o)
	}
	return people, nil
}

// threshold is --threshold, else more than half of n.
func threshold(c *cli.Context, n int) int {
	if t := c.Int("threshold"); t != 0 {
		return t
	}
	return n/2 + 1
}

// draftChange is a change of the register: the whole set after it, from the set before and the people named.
func draftChange(c *cli.Context, register *ceremony.Register, people []ceremony.Operator) (*ceremony.Change, error) {
	change := &ceremony.Change{Action: c.String("action"), Member: c.String("member"), Reason: c.String("reason"), WaitDays: c.Int("wait-days")}
	var members []ceremony.Operator
	limit := 0
	if register != nil {
		change.Previous = register.Head()
		before := register.Operators()
		members, limit = before.Members, before.Threshold
	} else if change.Action != ceremony.ActionFound {
		return nil, cmdline.Usage("--action %s needs the register it changes: --register FILE", change.Action)
	}
	one := func() (o ceremony.Operator, err error) {
		if len(people) != 1 {
			return o, cmdline.Usage("--action %s needs one --operator", change.Action)
		}
		change.Member = people[0].Name
		return people[0], nil
	}
	without := func(name string) {
		members = slices.DeleteFunc(members, func(m ceremony.Operator) bool { return m.Name == name })
		limit = min(limit, len(members))
	}
	switch change.Action {
	case ceremony.ActionFound, ceremony.ActionSuccessor:
		members, limit = people, threshold(c, len(people))
	case ceremony.ActionEnrol:
		o, err := one()
		if err != nil {
			return nil, err
		}
		members = append(members, o)
	case ceremony.ActionReplace:
		o, err := one()
		if err != nil {
			return nil, err
		}
		at := slices.IndexFunc(members, func(m ceremony.Operator) bool { return m.Name == o.Name })
		if at < 0 {
			return nil, cmdline.Usage("%s is no custodian", o.Name)
		}
		members[at] = o
	case ceremony.ActionLose, ceremony.ActionRemove:
		without(change.Member)
	default:
		return change, nil
	}
	if t := c.Int("threshold"); t != 0 {
		limit = t
	}
	change.Operators = &ceremony.Operators{Threshold: limit, Members: members}
	return change, nil
}

// softwareName is the program as a transcript names it.
func softwareName() string {
	v := readVersion()
	name := "redoubt " + v.Version
	if v.Revision != "" {
		name += " " + v.Revision
	}
	if v.Modified {
		name += " modified"
	}
	return fmt.Sprintf("%s %s", name, v.Platform)
}
