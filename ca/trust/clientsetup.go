package trust

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/template"
)

// ErrForeignDir says that the folder for a client setup holds something else.
var ErrForeignDir = errors.New("folder is not empty and holds no client setup")

// setupMark opens README.txt; by it a later run knows its own folder.
const setupMark = "Redoubt client setup for "

// WriteClientSetup writes everything a client machine needs into dir:
//
//	trusted_root.json  signing_config.v0.2.json  signing_config_rekor_v2.v0.2.json (with a TSA)
//	fulcio-chain.pem  rekor.pub  ctfe.pub  tsa-chain.pem (with a TSA)
//	denied.json (with a list of denied identities)
//	rekor-2.pub (where Rekor v2 has a log of its own, by that log's name)
//	notation/ (where certificates of the profile notation are issued, see notation.go)
//	tuf-root.json  ca-bundle.pem  env.sh  README.txt
//
// tufRoot is the root metadata to bootstrap from (Repository.Root). dir is made
// when absent; it must be empty or hold an earlier setup of the same domain,
// whose files are replaced one by one. Other files in it stay. It returns the
// names written, README.txt last.
func WriteClientSetup(dir string, m Material, tufRoot []byte) ([]string, error) {
	files, err := m.clientFiles(dir, tufRoot)
	if err != nil {
		return nil, err
	}
	if err := claimDir(dir, m.Domain); err != nil {
		return nil, err
	}
	var names []string
	for _, f := range files {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, f.Name)), 0o755); err != nil {
			return names, fmt.Errorf("writing client setup: %w", err)
		}
		if err := writeFile(filepath.Join(dir, f.Name), f.Data, 0o644); err != nil {
			return names, fmt.Errorf("writing client setup: %w", err)
		}
		names = append(names, f.Name)
	}
	return names, nil
}

// claimDir makes dir, or checks that it is ours to write in. The mark is
// written first, so that an interrupted run can be repeated.
func claimDir(dir, domain string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("creating client setup folder: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("reading client setup folder: %w", err)
	}
	mark := setupMark + domain + "\n"
	readme := filepath.Join(dir, "README.txt")
	if len(entries) == 0 {
		if err := writeFile(readme, []byte(mark), 0o644); err != nil {
			return fmt.Errorf("writing client setup: %w", err)
		}
		return nil
	}
	data, err := os.ReadFile(readme)
	if err != nil || !bytes.HasPrefix(data, []byte(mark)) {
		return fmt.Errorf("%w of %s: %s", ErrForeignDir, domain, dir)
	}
	return nil
}

func (m Material) clientFiles(dir string, tufRoot []byte) ([]File, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("naming client setup folder: %w", err)
	}
	if strings.ContainsAny(abs, "\n\r\x00") {
		return nil, fmt.Errorf("%w: folder name with a line break", ErrMaterial)
	}
	if len(tufRoot) == 0 {
		return nil, fmt.Errorf("%w: TUF root missing", ErrMaterial)
	}
	files, err := m.Targets()
	if err != nil {
		return nil, err
	}
	n := 2 // trusted root, signing config v1
	if len(m.TSAs) > 0 {
		n++
	}
	if len(m.Denied) > 0 {
		n++
	}
	legacy, err := m.LegacyFiles()
	if err != nil {
		return nil, err
	}
	files = append(files[:n:n], legacy...)
	v2, err := m.v2Keys()
	if err != nil {
		return nil, err
	}
	files = append(files, v2...)
	notation, err := m.notationFiles()
	if err != nil {
		return nil, err
	}
	files = append(files, notation...)
	files = append(files, File{Name: "tuf-root.json", Data: tufRoot}, File{Name: "ca-bundle.pem", Data: certPEM(m.TLSRoots...)})
	data := setupData{Dir: abs, Domain: m.Domain, URLs: m.URLs, TSA: len(m.TSAs) > 0, Denied: len(m.Denied) > 0, V2Logs: v2, TLS: len(m.TLSRoots) > 0, NoTLSRoot: m.LacksTLSRoot(), Notation: m.Notation}
	for _, t := range []struct{ name, text string }{{"env.sh", envTemplate}, {"README.txt", readmeTemplate}} {
		var b bytes.Buffer
		parsed, err := template.New(t.name).Funcs(template.FuncMap{"sh": shellQuote}).Parse(t.text)
		if err != nil {
			return nil, fmt.Errorf("writing %s: %w", t.name, err)
		}
		if err := parsed.Execute(&b, data); err != nil {
			return nil, fmt.Errorf("writing %s: %w", t.name, err)
		}
		files = append(files, File{Name: t.name, Data: b.Bytes()})
	}
	return files, nil
}

// LacksTLSRoot says that a service is https and m names no root its certificate could be checked by: clients reach it only
// where they trust that certificate already.
func (m Material) LacksTLSRoot() bool {
	u := m.URLs
	return len(m.TLSRoots) == 0 && slices.ContainsFunc([]string{u.Fulcio, u.Rekor, u.RekorV2, u.TSA, u.TUF, u.CT, u.OIDC},
		func(address string) bool { return strings.HasPrefix(address, "https://") })
}

type setupData struct {
	Dir, Domain string
	URLs        URLs
	TSA, TLS    bool
	NoTLSRoot   bool
	Denied      bool
	V2Logs      []File
	Notation    string
}

// PlainTSA is where the timestamp authority answers with status 200.
func (d setupData) PlainTSA() string {
	return strings.TrimSuffix(d.URLs.TSA, "/api/v1/timestamp") + "/tsr"
}

// shellQuote makes one POSIX shell word of s.
func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

const envTemplate = `# Redoubt client environment for {{.Domain}}. Source it: . env.sh
# cosign 3 needs none of this: it takes --trusted-root and --signing-config.
REDOUBT_CLIENT_DIR=${REDOUBT_CLIENT_DIR:-{{sh .Dir}}}
export REDOUBT_CLIENT_DIR

# cosign 2 and other clients from before trusted_root.json
export SIGSTORE_ROOT_FILE="$REDOUBT_CLIENT_DIR/fulcio-chain.pem"
export SIGSTORE_REKOR_PUBLIC_KEY="$REDOUBT_CLIENT_DIR/rekor.pub"
export SIGSTORE_CT_LOG_PUBLIC_KEY_FILE="$REDOUBT_CLIENT_DIR/ctfe.pub"
{{if .TSA}}export SIGSTORE_TSA_CERTIFICATE_FILE="$REDOUBT_CLIENT_DIR/tsa-chain.pem"
{{end}}
# gitsign
export GITSIGN_FULCIO_URL={{sh .URLs.Fulcio}}
export GITSIGN_REKOR_URL={{sh .URLs.Rekor}}
{{if .URLs.OIDC}}export GITSIGN_OIDC_ISSUER={{sh .URLs.OIDC}}
{{end}}
# rekor-cli
export REKOR_REKOR_SERVER={{sh .URLs.Rekor}}
REKOR_REKOR_SERVER_PUBLIC_KEY=$(cat "$REDOUBT_CLIENT_DIR/rekor.pub")
export REKOR_REKOR_SERVER_PUBLIC_KEY

# addresses, for scripts
export REDOUBT_FULCIO_URL={{sh .URLs.Fulcio}}
export REDOUBT_REKOR_URL={{sh .URLs.Rekor}}
export REDOUBT_TSA_URL={{sh .URLs.TSA}}
export REDOUBT_TUF_URL={{sh .URLs.TUF}}
export REDOUBT_OIDC_URL={{sh .URLs.OIDC}}
{{if .TLS}}
# the services' TLS certificates are of a private root
export SSL_CERT_FILE="$REDOUBT_CLIENT_DIR/ca-bundle.pem"
export NODE_EXTRA_CA_CERTS="$REDOUBT_CLIENT_DIR/ca-bundle.pem"
{{else if .NoTLSRoot}}
# WARNING: the services are https and no TLS root is known here (tls.ca): clients must trust their certificates already
{{end}}`

const readmeTemplate = setupMark + `{{.Domain}}

What is here
  trusted_root.json                    whom to believe: certificate authorities, logs, timestamping
  signing_config.v0.2.json             where to sign, Rekor v1 (for mixed fleets)
{{if .TSA}}  signing_config_rekor_v2.v0.2.json    where to sign, Rekor v2
{{end}}  fulcio-chain.pem rekor.pub ctfe.pub{{if .TSA}} tsa-chain.pem{{end}}   the same trust for clients before trusted_root.json
{{if .Denied}}  denied.json                          identities that are denied; redoubt verify --setup honours it. It changes: fetch it again from {{.URLs.TUF}}
{{end}}{{range .V2Logs}}  {{printf "%-36s" .Name}} key of the Rekor v2 log, for who mirrors it or makes a trusted root by hand
{{end}}{{if .Notation}}  notation/                            trust store and trust policy of Notation: copy them into its configuration, or set XDG_CONFIG_HOME to this folder
{{end}}  tuf-root.json                        first root of {{.URLs.TUF}}
  ca-bundle.pem                        TLS roots of the services{{if not .TLS}} (empty: no TLS root of our own){{end}}
  env.sh                               environment for cosign 2, gitsign, rekor-cli, sigstore-js

Copy the folder to each client by a way you trust: it decides what that machine believes.
If it lies elsewhere than {{.Dir}}, set REDOUBT_CLIENT_DIR first.

Put in your own values once
  D={{sh .Dir}}
  TOKEN=token.jwt                      # a file with an identity token; the next line takes a line break off its end, which cosign would send
  [ ! -s "$TOKEN" ] || { T=$(cat "$TOKEN") && printf %s "$T" > "$TOKEN"; }
  WHO=dev@{{.Domain}}
  ISSUER={{if .URLs.OIDC}}{{sh .URLs.OIDC}}{{else}}https://issuer.{{.Domain}}{{end}}
{{if .TLS}}  export SSL_CERT_FILE="$D/ca-bundle.pem" NODE_EXTRA_CA_CERTS="$D/ca-bundle.pem"
{{end}}
redoubt (opens no socket)
  redoubt verify FILE --bundle FILE.sigstore.json --trusted-root "$D/trusted_root.json" --certificate-identity "$WHO" --certificate-oidc-issuer "$ISSUER"

cosign 3: files
  cosign sign-blob -y --signing-config "$D/signing_config.v0.2.json" --trusted-root "$D/trusted_root.json" --identity-token "$TOKEN" --bundle FILE.sigstore.json FILE
  cosign verify-blob --trusted-root "$D/trusted_root.json" --bundle FILE.sigstore.json --certificate-identity "$WHO" --certificate-oidc-issuer "$ISSUER" FILE
cosign 3: images
  cosign sign -y --signing-config "$D/signing_config.v0.2.json" --trusted-root "$D/trusted_root.json" --identity-token "$TOKEN" REGISTRY/IMAGE@sha256:DIGEST
  cosign verify --trusted-root "$D/trusted_root.json" --certificate-identity "$WHO" --certificate-oidc-issuer "$ISSUER" REGISTRY/IMAGE@sha256:DIGEST
  cosign attest -y --signing-config "$D/signing_config.v0.2.json" --trusted-root "$D/trusted_root.json" --identity-token "$TOKEN" --predicate P.json --type custom REGISTRY/IMAGE@sha256:DIGEST
  cosign verify-attestation --trusted-root "$D/trusted_root.json" --type custom --certificate-identity "$WHO" --certificate-oidc-issuer "$ISSUER" REGISTRY/IMAGE@sha256:DIGEST
{{if .TSA}}cosign 3: Rekor v2
  the same with --signing-config "$D/signing_config_rekor_v2.v0.2.json"
{{end}}cosign through TUF (then without --trusted-root and --signing-config; needs the server at each use)
  cosign initialize --mirror {{sh .URLs.TUF}} --root "$D/tuf-root.json"

cosign 2: files
  . "$D/env.sh"
  cosign sign-blob -y --fulcio-url {{sh .URLs.Fulcio}} --rekor-url {{sh .URLs.Rekor}} --oidc-issuer "$ISSUER" --identity-token "$TOKEN" --bundle FILE.bundle FILE
  cosign verify-blob --bundle FILE.bundle --certificate-identity "$WHO" --certificate-oidc-issuer "$ISSUER" FILE
cosign 2: images
  . "$D/env.sh"
  cosign sign -y --fulcio-url {{sh .URLs.Fulcio}} --rekor-url {{sh .URLs.Rekor}} --oidc-issuer "$ISSUER" --identity-token "$TOKEN" REGISTRY/IMAGE@sha256:DIGEST
  cosign verify --certificate-identity "$WHO" --certificate-oidc-issuer "$ISSUER" REGISTRY/IMAGE@sha256:DIGEST

{{if .Notation}}Notation (the signer has the key and its certificate of ` + "`redoubt ca issue`" + ` in signingkeys.json)
  notation sign --timestamp-url {{sh .PlainTSA}} --timestamp-root-cert "$D/notation/truststore/x509/tsa/{{.Domain}}/root-1.pem" REGISTRY/IMAGE@sha256:DIGEST
  XDG_CONFIG_HOME="$D" notation verify REGISTRY/IMAGE@sha256:DIGEST
  redoubt verify oci://REGISTRY/IMAGE@sha256:DIGEST --setup "$D" --certificate-subject {{sh .Notation}}

{{end}}gitsign
  . "$D/env.sh"; export SIGSTORE_ID_TOKEN="$(cat "$TOKEN")"
  git config gpg.format x509; git config gpg.x509.program gitsign
  git commit -S
  gitsign verify --certificate-identity "$WHO" --certificate-oidc-issuer "$ISSUER" HEAD

rekor-cli (env.sh pins the log's key)
  . "$D/env.sh"
  rekor-cli loginfo
  rekor-cli upload --artifact FILE --signature FILE.sig --public-key KEY.pub --pki-format x509
  rekor-cli get --log-index 0

sigstore-js
  import { sign, verify } from 'sigstore';
  const bundle = await sign(data, { fulcioURL: '{{.URLs.Fulcio}}', rekorURL: '{{.URLs.Rekor}}',{{if .TSA}} tsaServerURL: '{{.URLs.TSA}}',{{end}} identityToken: token });
  await verify(bundle, data, { tufMirrorURL: '{{.URLs.TUF}}', tufRootPath: process.env.REDOUBT_CLIENT_DIR + '/tuf-root.json', tufCachePath: 'tuf-cache', certificateIssuer: issuer });

openssl (timestamps)
{{if .TSA}}  openssl ts -query -data FILE -sha256 -cert -out FILE.tsq
  curl -s -H 'Content-Type: application/timestamp-query' --data-binary @FILE.tsq {{sh .URLs.TSA}} -o FILE.tsr
  openssl ts -verify -queryfile FILE.tsq -in FILE.tsr -CAfile "$D/tsa-chain.pem"
{{else}}  no timestamp authority
{{end}}`
