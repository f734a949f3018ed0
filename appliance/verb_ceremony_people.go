package main

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/ca/ceremony"
	"redoubt.internal/hsm"
)

// compactDigest takes a digest as it is written in groups.
func compactDigest(s string) string {
	return strings.ToLower(strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == ':' || r == '-' || r == '\n' }), ""))
}

// printAloud prints a digest as people read it to each other.
func printAloud(w io.Writer, what, digest string) {
	aloud, _ := ceremony.Aloud(digest)
	fmt.Fprintf(w, "%s: SHA-256 %s\nread aloud, by the %s:\n%s", what, digest, ceremony.WordListName, indent(aloud))
}

func indent(text string) string {
	return "  " + strings.ReplaceAll(strings.TrimSuffix(text, "\n"), "\n", "\n  ") + "\n"
}

// digestResult is the JSON of `redoubt ceremony digest -o json`.
type digestResult struct {
	Kind   ceremony.Kind `json:"kind"`
	Domain string        `json:"domain"`
	SHA256 string        `json:"sha256"`
	Aloud  string        `json:"aloud"` // groups of four hex digits and their words, line by line
	List   string        `json:"list"`
}

func ceremonyDigest(c *cli.Context) error {
	plan, err := readPlan(c)
	if err != nil {
		return err
	}
	aloud, err := ceremony.Aloud(plan.Digest())
	if err != nil {
		return err
	}
	return cmdline.PrintResult(c, digestResult{plan.Kind, plan.Domain, plan.Digest(), aloud, ceremony.WordListName}, func(w io.Writer) {
		printAloud(w, "plan", plan.Digest())
	})
}

// personKey opens the key --key names: a URI of a token, or a file that holds a PEM private key.
func personKey(c *cli.Context) (key crypto.Signer, done func(), err error) {
	name := c.String("key")
	if scheme, _, ok := strings.Cut(name, ":"); !ok || strings.ContainsAny(scheme, "/.") {
		key, err = pemKey(name)
		return key, func() {}, err
	}
	keys, err := openPersonKeyring(c)
	if err != nil {
		return nil, nil, err
	}
	k, err := keys.signer(c.Context, name)
	if err != nil {
		keys.close()
		return nil, nil, err
	}
	return k, func() { keys.close() }, nil
}

// openPersonKeyring is a keyring whose relative software keys are in the working directory.
func openPersonKeyring(c *cli.Context) (*keyring, error) {
	keys, err := openKeyring(c, ".") // a person's token is held to less than ours: PIV cards keep keys that were brought in
	if err == nil {
		keys.cfg.AllowImported = true
	}
	if err == nil && keys.softDir == "" {
		keys.softDir = keys.dir.root
	}
	return keys, err
}

// pemKey reads a PKCS#8 private key that its owner alone can read.
func pemKey(path string) (crypto.Signer, error) {
	data, err := hsm.ReadPrivate(path, 16<<10)
	if err != nil {
		return nil, fmt.Errorf("--key: %w", err)
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, fmt.Errorf("--key: %s is no PEM file of a PKCS#8 private key; a key of Redoubt's own is soft:%s", path, path)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("--key: parsing %s: %w", path, err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("--key: %s holds %T, which does not sign", path, key)
	}
	return signer, nil
}

func operatorName(c *cli.Context) (string, error) {
	if c.NArg() != 1 {
		return "", cmdline.Usage("%s takes one NAME", c.Command.HelpName)
	}
	return c.Args().First(), nil
}

func operatorNew(c *cli.Context) error {
	name, err := operatorName(c)
	if err != nil {
		return err
	}
	alg := hsm.Algorithm(c.String("algorithm"))
	if alg != hsm.ECDSAP256 && alg != hsm.Ed25519 {
		return cmdline.Usage("--algorithm %q: want ecdsa-p256 or ed25519", alg)
	}
	keys, err := openPersonKeyring(c)
	if err != nil {
		return err
	}
	defer keys.close()
	token, err := keys.token(c.String("key"))
	if err != nil {
		return err
	}
	key, err := token.Generate(c.Context, c.String("key"), alg)
	if err != nil {
		return err
	}
	return printOperator(c, name, key.Public())
}

func operatorShow(c *cli.Context) error {
	name, err := operatorName(c)
	if err != nil {
		return err
	}
	if path := c.String("key"); !strings.Contains(path, ":") {
		if data, err := readRecord(path); err == nil {
			if block, _ := pem.Decode(data); block != nil && block.Type == "PUBLIC KEY" {
				pub, err := x509.ParsePKIXPublicKey(block.Bytes)
				if err != nil {
					return fmt.Errorf("--key: %w", err)
				}
				return printOperator(c, name, pub)
			}
		}
	}
	key, done, err := personKey(c)
	if err != nil {
		return err
	}
	defer done()
	return printOperator(c, name, key.Public())
}

// printOperator prints an operator's entry as a plan and `ceremony plan --operator` take it.
func printOperator(c *cli.Context, name string, pub crypto.PublicKey) error {
	o, err := ceremony.NewOperator(name, pub)
	if err != nil {
		return err
	}
	_, err = io.WriteString(c.App.Writer, o.YAML())
	return err
}

func ceremonyApprove(c *cli.Context) error {
	plan, err := readPlan(c)
	if err != nil {
		return err
	}
	among, err := approversOf(c, &plan)
	if err != nil {
		return err
	}
	key, done, err := personKey(c)
	if err != nil {
		return err
	}
	defer done()
	approval, err := ceremony.Approve(plan, among, key, time.Now())
	if err != nil {
		return err
	}
	data, err := approval.Encode()
	if err != nil {
		return err
	}
	printAloud(cmdline.Progress(c), fmt.Sprintf("%s approves a plan of kind %s for %s", approval.Statement.Operator, plan.Kind, plan.Domain), plan.Digest())
	if out := c.String("out"); out != "" {
		return writeOnce(out, data)
	}
	_, err = c.App.Writer.Write(data)
	return err
}

// approversOf are the people whose approval a plan needs.
func approversOf(c *cli.Context, plan *ceremony.Plan) (*ceremony.Operators, error) {
	data, err := readOptional(c, "register")
	if err != nil {
		return nil, err
	}
	var register *ceremony.Register
	if data != nil {
		if register, err = ceremony.ParseRegister(data); err != nil {
			return nil, err
		}
	}
	among, err := plan.Approvers(register)
	if err != nil {
		return nil, cmdline.Hinted(err, "a plan that names an entry of the register needs it: --register FILE")
	}
	if among == nil {
		return nil, errors.New("the plan names no operators; nobody has to approve it")
	}
	return among, nil
}

func ceremonySign(c *cli.Context) error {
	t, path, err := readTranscript(c)
	if err != nil {
		return err
	}
	key, done, err := personKey(c)
	if err != nil {
		return err
	}
	defer done()
	if err := t.Sign(key); err != nil {
		return err
	}
	data, err := t.Encode()
	if err != nil {
		return err
	}
	if err := replaceFile(path, data, 0o644); err != nil {
		return err
	}
	return printTranscript(c, path, verdictOptions{rehearsal: true, pending: true})
}

// readTranscript reads and verifies the one operand.
func readTranscript(c *cli.Context) (*ceremony.Transcript, string, error) {
	if c.NArg() != 1 {
		return nil, "", cmdline.Usage("%s takes one TRANSCRIPT", c.Command.HelpName)
	}
	path := c.Args().First()
	data, err := readRecord(path)
	if err != nil {
		return nil, path, err
	}
	t, err := ceremony.Verify(data)
	return t, path, err
}

// registerResult is the JSON of `redoubt ceremony register -o json`.
type registerResult struct {
	Head      string              `json:"head"` // SHA-256 of the last entry: what a plan names
	Entries   int                 `json:"entries"`
	Operators *ceremony.Operators `json:"operators"`
	Successor *ceremony.Operators `json:"successor,omitempty"` // the emergency set
	WaitDays  int                 `json:"waitDays,omitempty"`
	Claimed   *time.Time          `json:"claimed,omitempty"`
	Due       *time.Time          `json:"due,omitempty"` // when the emergency set may take over
}

func ceremonyRegister(c *cli.Context) error {
	if c.NArg() != 1 {
		return cmdline.Usage("%s takes one REGISTER", c.Command.HelpName)
	}
	data, err := readRecord(c.Args().First())
	if err != nil {
		return err
	}
	r, err := ceremony.ParseRegister(data)
	if err != nil {
		return err
	}
	out := registerResult{Head: r.Head(), Entries: len(r.Entries), Operators: r.Operators()}
	successor, wait, claimed := r.Successor()
	out.Successor, out.WaitDays = successor, wait
	if !claimed.IsZero() {
		due := r.Due()
		out.Claimed, out.Due = &claimed, &due
	}
	return cmdline.PrintResult(c, out, func(w io.Writer) {
		printAloud(w, fmt.Sprintf("register of %d entries, the last", out.Entries), out.Head)
		printPeople(w, "custodians", out.Operators)
		if successor != nil {
			printPeople(w, fmt.Sprintf("emergency set, after a wait of %d days", wait), successor)
		}
		if out.Due != nil {
			fmt.Fprintf(w, "CLAIMED %s: the emergency set may take over from %s unless the custodians change anything before\n", claimed.Format(time.RFC3339), out.Due.Format(time.RFC3339))
		}
	})
}

func printPeople(w io.Writer, what string, o *ceremony.Operators) {
	fmt.Fprintf(w, "%s: %d of %d\n", what, o.Threshold, len(o.Members))
	for _, m := range o.Members {
		_, fingerprint, _ := m.Key()
		fmt.Fprintf(w, "  %-20s key SHA-256 %s\n", m.Name, fingerprint)
	}
}
