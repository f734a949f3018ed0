// Package verifying is the verb verify: it reads what the command line names, has the packages verify and policy judge it, and tells the verdict as
// text, JSON or SARIF.
//
// It guarantees that only oci:// opens a socket, to the registry that it names. It links nothing that signs, issues or keeps a log: the program
// redoubt is this package and little else. Start at Command.
package verifying

import (
	"cmp"
	_ "embed" // the schema of a verdict
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/appliance/counting"
	"redoubt.internal/appliance/policy"
	"redoubt.internal/appliance/verify"
	"redoubt.internal/mirror/freshness"
)

// Now is the clock of every verdict; tests set it.
var Now = time.Now

// Verb is its name.
const Verb = "verify"

// Schema is the JSON Schema of a verdict.
//
//go:embed verdict.schema.json
var Schema []byte

// Appliance is what verify asks of the appliance that it is part of. A verifier that stands alone has none of it.
type Appliance struct {
	// StateDir is the state directory of this machine's instance; "" where there is none, or none that this user may read.
	StateDir func(*cli.Context) string
	// Receipt signs, logs and writes the receipt of what a policy allowed.
	Receipt func(*cli.Context, *policy.Policy, policy.Artifact, policy.Decision) error
}

// Command is the verb.
func Command(a Appliance) *cli.Command {
	return &cli.Command{
		Name: Verb, Usage: "verify what was signed: files, digests, images, commits and tags; only oci:// opens a socket", ArgsUsage: "FILE|sha256:HEX|oci://REF|oci-layout:DIR|docker-archive:F|git:REV",
		Description: "Exit codes: `redoubt docs exit-codes`. --prove-offline repeats the whole verification in an empty network namespace.",
		Flags: append(slices.Concat(freshnessFlags(), operandFlags(), receiptFlags(), deniedFlags(), []cli.Flag{metricsFlag()}),
			&cli.StringSliceFlag{Name: "trusted-root", Usage: "trusted_root.json; several are tried one by one", EnvVars: []string{"REDOUBT_TRUSTED_ROOT"}},
			&cli.StringFlag{Name: "setup", Usage: "folder of `redoubt client setup`, whose trusted_root.json is used", EnvVars: []string{"REDOUBT_SETUP"}},
			&cli.StringFlag{Name: "certificate-identity", Usage: "accepted e-mail or URI", EnvVars: []string{"REDOUBT_CERTIFICATE_IDENTITY"}},
			&cli.StringFlag{Name: "certificate-identity-regexp", Usage: "accepted e-mails or URIs; anchor with ^ and $", EnvVars: []string{"REDOUBT_CERTIFICATE_IDENTITY_REGEXP"}},
			&cli.StringFlag{Name: "certificate-oidc-issuer", Usage: "accepted issuer", EnvVars: []string{"REDOUBT_CERTIFICATE_OIDC_ISSUER"}},
			&cli.StringFlag{Name: "certificate-oidc-issuer-regexp", Usage: "accepted issuers; anchor with ^ and $", EnvVars: []string{"REDOUBT_CERTIFICATE_OIDC_ISSUER_REGEXP"}},
			&cli.StringFlag{Name: "certificate-subject", Usage: "accepted subject of a Notation signature's certificate: C, ST and O, and as much more as is to be pinned, such as 'C=DE,ST=Berlin,O=Corp,CN=release'", EnvVars: []string{"REDOUBT_CERTIFICATE_SUBJECT"}},
			&cli.StringFlag{Name: "accept", Usage: "file that says who is accepted under which root, instead of the --certificate flags", EnvVars: []string{"REDOUBT_ACCEPT"}},
			&cli.StringFlag{Name: "key", Usage: "accepted public key (PEM) instead of an identity", EnvVars: []string{"REDOUBT_KEY"}},
			&cli.BoolFlag{Name: "without-log", Usage: "accept what stands in no log, as a key alone can sign it; a certificate then needs a timestamp", EnvVars: []string{"REDOUBT_WITHOUT_LOG"}},
			&cli.StringSliceFlag{Name: "type", Usage: "demand an attestation of this predicate type, a URI or one of " + strings.Join(slices.Sorted(maps.Keys(CosignTypes)), ", "), EnvVars: []string{"REDOUBT_TYPE"}},
			&cli.DurationFlag{Name: "max-trust-age", Usage: "refuse a trusted root whose file is older", EnvVars: []string{"REDOUBT_MAX_TRUST_AGE"}},
			&cli.BoolFlag{Name: "prove-offline", Usage: "verify in an empty network namespace", EnvVars: []string{"REDOUBT_PROVE_OFFLINE"}},
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "text", Usage: "text, json or sarif (2.1.0)", EnvVars: []string{"REDOUBT_OUTPUT"}},
			&cli.BoolFlag{Name: "schema", Usage: "print the JSON Schema of what -o json prints, and verify nothing", EnvVars: []string{"REDOUBT_SCHEMA"}},
		),
		Action: a.verify,
	}
}

// verify is what `redoubt verify` does.
func (a Appliance) verify(c *cli.Context) error {
	if c.Bool("schema") {
		_, err := c.App.Writer.Write(Schema)
		return err
	}
	if c.NArg() != 1 {
		return cmdline.Usage("verify takes one FILE, sha256:HEX, image or git:REV")
	}
	if err := leaveDefaults(c); err != nil {
		return unverified(c, err)
	}
	if err := checkReceipt(c); err != nil {
		return err
	}
	if c.Bool("prove-offline") && os.Getenv(offlineMark) == "" {
		return reexecOffline(c)
	}
	if os.Getenv(offlineMark) != "" {
		if err := goOffline(c); err != nil {
			return err
		}
		defer fmt.Fprintln(c.App.ErrWriter, "offline: 0 sockets: the network namespace is empty, and the kernel refused every socket")
	}
	known, knownIn, err := a.upstream(c)
	if err != nil {
		return unverified(c, err)
	}
	if c.String("policy") != "" {
		return a.verifyByPolicy(c, known, knownIn)
	}
	found, err := gatherOperand(c)
	if err != nil {
		return unverified(c, err)
	}
	accepted, err := acceptedUnder(c)
	if err != nil {
		return unverified(c, err)
	}
	mirrored, err := mirroredRoots(c.StringSlice("mirror-root"), known, knownIn)
	if err != nil {
		return unverified(c, err)
	}
	list, err := deniedList(c)
	if err != nil {
		return unverified(c, err)
	}
	result, err := Verify(c.Context, Request{
		Mirrored: mirrored, Accepted: accepted, Denied: list,
		Found: &found, Roots: c.StringSlice("trusted-root"), Setup: c.String("setup"), Key: c.String("key"),
		Identity: verify.Identity{SAN: c.String("certificate-identity"), SANRegexp: c.String("certificate-identity-regexp"),
			Issuer: c.String("certificate-oidc-issuer"), IssuerRegexp: c.String("certificate-oidc-issuer-regexp")},
		Subject: c.String("certificate-subject"), Types: c.StringSlice("type"), WithoutLog: c.Bool("without-log"), MaxTrustAge: c.Duration("max-trust-age"), Upstream: known, Offline: provenOffline(c),
	})
	if err != nil {
		return unverified(c, err)
	}
	if dir := c.String("observe"); dir != "" {
		leaveProofs(dir, result, c.App.ErrWriter)
	}
	countVerdict(c, counting.Accepted, acceptedBy(result))
	if c.String("output") == "sarif" {
		return sarifResultOf(c.Args().First(), result).print(c)
	}
	return cmdline.PrintResult(c, result, func(w io.Writer) { printVerified(w, c.Args().First(), result) })
}

// unverified is how a verification that failed ends.
func unverified(c *cli.Context, err error) error {
	failure := verify.NewFailure(err)
	failure.Offline = provenOffline(c)
	reason := verify.ReasonID(err)
	if own := (*cmdline.Error)(nil); errors.As(err, &own) {
		failure.Code, reason = own.Code, counting.Unanswered // of a registry that does not answer
	}
	countVerdict(c, counting.Refused, reason)
	switch c.String("output") {
	case "json":
		if err := cmdline.PrintJSON(c, failure); err != nil {
			return err
		}
	case "sarif":
		if err := sarifFailure(c.Args().First(), failure).print(c); err != nil {
			return err
		}
	}
	failed := cmdline.WithCode(failure.Code, fmt.Errorf("not verified: %w", everyReason{err, failure.Reasons}))
	next := cmp.Or(nextForFile(err), nextForCopy(c.Args().First(), err))
	if next == "" && errors.Is(err, freshness.ErrStale) {
		next = "carry a newer parcel and import it; `redoubt mirror status` says how old everything is"
	}
	if next != "" {
		return cmdline.Hinted(failed, "%s", next)
	}
	return failed
}

// everyReason is a refusal that is told with what else speaks against the bundle.
type everyReason struct {
	error
	all []verify.Reason
}

func (e everyReason) Unwrap() error { return e.error }

func (e everyReason) Error() string {
	text := e.error.Error()
	told := 0
	for _, r := range e.all {
		if told == 8 {
			return text + "; and more, which -o json tells"
		}
		if strings.Contains(text, r.Detail) {
			continue
		}
		told++
		text += "; also: " + r.Detail
		if r.Root != "" {
			text += " (under root " + r.Root + ")"
		}
	}
	return text
}

// localFile is verify.ErrLocal with the part the file plays.
type localFile struct{ role string }

func (l localFile) Error() string        { return "cannot read the " + l.role }
func (l localFile) Is(target error) bool { return target == verify.ErrLocal }

// nextForFile is what to do when a file of a verification cannot be read.
func nextForFile(err error) string {
	var l localFile
	if !errors.As(err, &l) {
		return ""
	}
	switch l.role {
	case "bundle":
		return "--bundle names what `redoubt sign` or cosign wrote beside the artifact"
	case "trusted root":
		return "`redoubt client setup --out DIR` writes one where the instance runs; copy it here and give --setup DIR"
	case "mirrored root":
		return "it stands in the folder roots beside state.note: take that along"
	case "list of denied identities":
		return "`redoubt client setup --out DIR` writes a denied.json where the instance runs, and its TUF repository has it as a target"
	case "accept":
		return "--accept names a YAML file: docs/mirror.md has one"
	case "mirror state", "mirror key":
		return "the running mirror writes state.note and state.key in its folder mirror; give --mirror-state and --mirror-key"
	case "public key":
		return "--key names a PEM file"
	case "repository":
		return "--repository names a folder in it, and the git of this machine reads it"
	case "revision":
		return "git:REV is whatever git takes for a commit or an annotated tag: HEAD, v1.0, a name in hex"
	case "log entry":
		return "it is what `rekor-cli get --uuid U --format tle` or GET /api/v1/log/entries/U prints, where the log can be reached"
	case "signature", "certificate", "timestamp":
		return "it is what `cosign sign-blob --output-signature --output-certificate --rfc3161-timestamp` wrote beside the artifact"
	}
	return "give the FILE that was signed, or its sha256:HEX"
}

// ReadBounded reads a small file of the request.
func ReadBounded(role, path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", localFile{role}, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxVerifyFile+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", localFile{role}, err)
	}
	if len(data) > maxVerifyFile {
		return nil, fmt.Errorf("%w: the %s %s is larger than %d bytes", verify.ErrMalformed, role, path, maxVerifyFile)
	}
	return data, nil
}

func printVerified(w io.Writer, artifact string, r *verify.Result) {
	san, issuer := r.Signer()
	fmt.Fprintf(w, "verified: %s\n", artifact)
	if strings.HasPrefix(r.Artifact(), "git") {
		fmt.Fprintf(w, "  object     %s\n", r.Artifact())
	}
	switch {
	case san != "" && issuer == "": // a subject
		fmt.Fprintf(w, "  signer     %s\n", san)
	case san != "":
		fmt.Fprintf(w, "  signer     %s (issuer %s)\n", san, issuer)
	}
	fmt.Fprintf(w, "  root       %s\n", r.Root())
	if u := r.RootUpstream(); u != nil {
		fmt.Fprintf(w, "  carried    trust last observed upstream at %s, %s ago (%s), says %s\n", u.Observed.Format(time.RFC3339), u.Age, u.Level, u.Claimed)
	}
	if t := r.PredicateType(); t != "" {
		fmt.Fprintf(w, "  predicate  %s\n", t)
	}
	for _, t := range r.Times() {
		fmt.Fprintf(w, "  time       %s by %s\n", t.Time.UTC().Format(time.RFC3339), t.URI)
	}
	for _, l := range r.Log() {
		fmt.Fprintf(w, "  log        %s, %s %s, tree size %d, root %s\n", l.Origin, l.Kind, l.Version, l.TreeSize, l.RootHash)
		if u := l.Upstream; u != nil && u.Observed != nil {
			fmt.Fprintf(w, "  observed   %s, %s ago (%s), by %s, says %s\n", u.Observed.Format(time.RFC3339), u.Age, u.Level, cmp.Or(u.By, "nobody named"), u.Claimed)
		}
	}
	for _, warning := range r.Warnings() {
		fmt.Fprintf(w, "  warning    %s\n", warning)
	}
}
