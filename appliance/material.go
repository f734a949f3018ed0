package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/ca/trust"
	"redoubt.internal/log/rekor"
)

// material is what clients must know about this instance: chains, log keys, the URLs they dial. What was rotated away is listed with
// its end, what is announced with its start. Logs that were made by the first ceremony count from the moment the first issuing
// certificate does.
func (in *instance) material() (trust.Material, error) { return in.materialOf(in.onRecord()) }

// materialOf is material as the record of keys h has it.
func (in *instance) materialOf(h *history) (trust.Material, error) {
	m := trust.Material{Domain: in.cfg.Domain}
	if p := in.cfg.CA.Notation; p != nil {
		m.Notation = notationPin(p.subject("", ""))
	}
	authorities, err := in.readAuthorities(h)
	if err != nil {
		return m, err
	}
	for role, to := range map[string]*[]trust.Authority{roleIssuing: &m.CAs, roleTSA: &m.TSAs} {
		for _, a := range authorities[role] {
			*to = append(*to, trust.Authority{Chain: a.chain, End: a.End, Next: a.State == stateAnnounced})
		}
	}
	for _, a := range in.cfg.Log.Artifact {
		l, err := in.publishedLog(h, a.Name, !slices.Contains(a.Serves, rekor.V1))
		if err != nil {
			return m, err
		}
		m.Rekor = append(m.Rekor, l)
	}
	for _, name := range in.cfg.certificateLogs() {
		l, err := in.publishedLog(h, name, false)
		if err != nil {
			return m, err
		}
		m.CTLogs = append(m.CTLogs, l)
	}
	for _, k := range h.Instances {
		if k.State != stateAnnounced || k.Role != roleCT && shardNumber(k.Role) == 0 {
			continue
		}
		l, err := in.publishedLog(h, k.Name, !slices.Contains(k.Serves, rekor.V1))
		if err != nil {
			return m, err
		}
		if l.Next = true; k.Role == roleCT {
			l.V2 = false
			m.CTLogs = append(m.CTLogs, l)
		} else {
			m.Rekor = append(m.Rekor, l)
		}
	}
	urls := in.cfg.urls()
	m.URLs = trust.URLs{Fulcio: urls["fulcio"], Rekor: urls["rekor"], TSA: urls["tsa"], TUF: urls["tuf"], CT: urls["ct"], OIDC: urls["oidc"]}
	if in.cfg.TLS.CA != "" {
		if m.TLSRoots, err = readChain(in.dir.resolve(in.cfg.TLS.CA)); err != nil {
			return m, err
		}
	}
	if m.Denied, err = in.deniedFile(); err != nil {
		return m, err
	}
	return m, m.Validate()
}

// publishedLog is the log called name as clients know it.
func (in *instance) publishedLog(h *history, name string, v2 bool) (l trust.Log, err error) {
	l = trust.Log{Host: in.cfg.origin(name), Start: in.firstTrust(), V2: v2}
	var public crypto.PublicKey
	if k := h.find(name); k != nil {
		l.Start, l.End = k.Start, k.End
		if public, err = k.public(); err != nil {
			return l, err
		}
	} else if s := in.signer(name); s != nil {
		public = s.Public()
	}
	ok := false
	if l.Key, ok = public.(*ecdsa.PublicKey); !ok {
		return l, fmt.Errorf("the %s key is %T, clients need ECDSA P-256", name, public)
	}
	return l, nil
}

// firstTrust is when trust in this instance starts: what its first ceremony made counts from then on.
func (in *instance) firstTrust() time.Time { return in.authorities[roleIssuing][0].chain[0].NotBefore }

func clientCommand() *cli.Command {
	return &cli.Command{
		Name: "client", Usage: "what a client machine needs",
		Subcommands: []*cli.Command{{
			Name: "setup", Usage: "write trust roots, signing configs and ready-to-paste commands into a folder",
			Flags: append(cmdline.StateFlags(), cmdline.OutputFlag(), &cli.StringFlag{Name: "out", Required: true, Usage: "folder to write; new, empty, or of an earlier setup", EnvVars: []string{"REDOUBT_OUT"}}),
			Action: func(c *cli.Context) error {
				out, err := filepath.Abs(c.String("out"))
				if err != nil {
					return err
				}
				published, err := clientTrust.call(c, struct{}{})
				if err != nil {
					return err
				}
				m, err := published.material()
				if err != nil {
					return err
				}
				written, err := trust.WriteClientSetup(out, m, published.TUFRoot)
				if err != nil {
					return err
				}
				if m.LacksTLSRoot() {
					fmt.Fprintln(c.App.ErrWriter, "redoubt: warning: the services are https and no TLS root is known; clients that do not trust their certificates already need tls.ca (`redoubt init --tls-ca`)")
				}
				return cmdline.PrintResult(c, setupResult{out, written}, func(w io.Writer) {
					for _, name := range written {
						fmt.Fprintln(w, filepath.Join(out, name))
					}
					fmt.Fprintf(w, "\nnext: read %s\n", filepath.Join(out, "README.txt"))
				})
			},
		}},
	}
}

// setupResult is the JSON of `redoubt client setup -o json`.
type setupResult struct {
	Dir   string   `json:"dir"`
	Files []string `json:"files"` // what was written, by name within dir
}

// publishedTrust is trust.Material with certificates as PEM and keys as PKIX DER, for the way over the control socket: the
// caller writes the folder under its own user.
type publishedTrust struct {
	Domain   string           `json:"domain"`
	URLs     trust.URLs       `json:"urls"`
	CAs      []publishedChain `json:"cas"`
	TSAs     []publishedChain `json:"tsas"`
	Rekor    []publishedLog   `json:"rekor"`
	CTLogs   []publishedLog   `json:"ctLogs"`
	Denied   []byte           `json:"denied"` // denied.json
	Notation string           `json:"notation,omitempty"`
	TLSRoots []byte           `json:"tlsRoots"`
	TUFRoot  []byte           `json:"tufRoot"`
}

type publishedChain struct {
	PEM        []byte    `json:"pem"`
	Next       bool      `json:"next,omitempty"`
	Start, End time.Time `json:",omitzero"`
}

type publishedLog struct {
	Host       string    `json:"host"`
	Key        []byte    `json:"key"`
	V2         bool      `json:"v2,omitempty"`
	Next       bool      `json:"next,omitempty"`
	Start, End time.Time `json:",omitzero"`
}

var clientTrust = verb[struct{}, publishedTrust]{"client.trust", func(_ context.Context, in *instance, _ string, _ struct{}) (p publishedTrust, err error) {
	m, err := in.material()
	if err != nil {
		return p, err
	}
	p = publishedTrust{Domain: m.Domain, Notation: m.Notation, URLs: m.URLs, Denied: m.Denied, TLSRoots: pemChain(m.TLSRoots), TUFRoot: in.tuf.Root()}
	for _, a := range m.CAs {
		p.CAs = append(p.CAs, publishedChain{pemChain(a.Chain), a.Next, a.Start, a.End})
	}
	for _, a := range m.TSAs {
		p.TSAs = append(p.TSAs, publishedChain{pemChain(a.Chain), a.Next, a.Start, a.End})
	}
	for _, pair := range []struct {
		from []trust.Log
		to   *[]publishedLog
	}{{m.Rekor, &p.Rekor}, {m.CTLogs, &p.CTLogs}} {
		for _, l := range pair.from {
			der, err := x509.MarshalPKIXPublicKey(l.Key)
			if err != nil {
				return p, err
			}
			*pair.to = append(*pair.to, publishedLog{l.Host, der, l.V2, l.Next, l.Start, l.End})
		}
	}
	return p, nil
}}

func (p publishedTrust) material() (m trust.Material, err error) {
	m = trust.Material{Domain: p.Domain, Notation: p.Notation, URLs: p.URLs, Denied: p.Denied}
	for _, pair := range []struct {
		from []publishedChain
		to   *[]trust.Authority
	}{{p.CAs, &m.CAs}, {p.TSAs, &m.TSAs}} {
		for _, a := range pair.from {
			chain, err := parseChain(a.PEM)
			if err != nil {
				return m, err
			}
			*pair.to = append(*pair.to, trust.Authority{Chain: chain, Start: a.Start, End: a.End, Next: a.Next})
		}
	}
	for _, pair := range []struct {
		from []publishedLog
		to   *[]trust.Log
	}{{p.Rekor, &m.Rekor}, {p.CTLogs, &m.CTLogs}} {
		for _, l := range pair.from {
			key, err := x509.ParsePKIXPublicKey(l.Key)
			if err != nil {
				return m, err
			}
			public, ok := key.(*ecdsa.PublicKey)
			if !ok {
				return m, fmt.Errorf("a log key is %T", key)
			}
			*pair.to = append(*pair.to, trust.Log{Host: l.Host, Key: public, Start: l.Start, End: l.End, V2: l.V2, Next: l.Next})
		}
	}
	if len(p.TLSRoots) > 0 {
		m.TLSRoots, err = parseChain(p.TLSRoots)
	}
	return m, err
}

// pemChain encodes certificates as PEM, in order.
func pemChain(chain []*x509.Certificate) (out []byte) {
	for _, c := range chain {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}
