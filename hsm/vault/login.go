package vault

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"redoubt.internal/hsm"
)

// A grant is a token of the server and how long it lasts.
type grant struct {
	token     string
	lease     time.Duration // from since; 0: no end
	since     time.Time
	born      time.Time // of the login; since is also that of a renewal
	renewable bool
	full      time.Duration // the lease of the login: what a renewal should give again
}

// A session is a proven connection: the token was accepted after the last loss, the
// namespace is honoured. Keys whose public half was compared within it are noted.
type session struct {
	grant *grant
	state map[string]string // what the server says of itself

	mu   sync.Mutex
	seen map[string]bool // URIs of the keys compared
}

// refusal remembers a refused login, so that the credential is not tried in a
// loop: servers lock the account (Vault: 5 failures, 15 minutes).
type refusal struct {
	credential [32]byte
	reason     error
	until      time.Time
	wait       time.Duration
}

const (
	firstWait = 5 * time.Second
	lastWait  = 5 * time.Minute
	maxSecret = 16 << 10
)

// establish makes a session: with the token of the last one where that still
// stands, else by a new login. The gate is held.
func (t *Token) establish(ctx context.Context) (*session, error) {
	g := t.kept
	if g != nil {
		switch err := t.wire.call(ctx, g.token, "GET", "auth/token/lookup-self", nil, nil); {
		case errors.Is(err, errDenied):
			t.kept, g = nil, nil
		case err != nil:
			return nil, err
		}
	}
	if g == nil {
		var err error
		if g, err = t.login(ctx); err != nil {
			return nil, err
		}
		t.kept = g // not to log in again when a later step fails
	}
	if err := t.proveNamespace(ctx, g); err != nil {
		return nil, err
	}
	return &session{grant: g, state: t.serverState(ctx), seen: map[string]bool{}}, nil
}

// login gets a token by the configured method.
func (t *Token) login(ctx context.Context) (*grant, error) {
	path, body, secret, err := t.credential()
	if err != nil {
		return nil, fmt.Errorf("%w: %s", hsm.ErrBadPIN, err.Error()) // a file open to others is no insecure key
	}
	id := sha256.Sum256([]byte(path + "\x00" + secret))
	if r := &t.refused; r.reason != nil && r.credential == id && time.Now().Before(r.until) {
		return nil, fmt.Errorf("%w; not tried again before %s", r.reason, r.until.UTC().Format(time.RFC3339))
	}
	g, err := t.obtain(ctx, path, body, secret)
	if errors.Is(err, errRefused) || errors.Is(err, errDenied) {
		err = fmt.Errorf("%w: logging in by %s at auth/%s: %w", hsm.ErrBadPIN, t.cfg.Auth, t.cfg.AuthMount, scrub(err, secret))
		wait := firstWait
		if t.refused.credential == id {
			wait = min(2*t.refused.wait, lastWait)
		}
		t.refused = refusal{credential: id, reason: err, until: time.Now().Add(wait), wait: wait}
		return nil, err
	}
	if err != nil {
		return nil, scrub(err, secret)
	}
	t.refused = refusal{}
	return g, nil
}

// credential reads the configured files anew: path and body of the login request,
// and the secret that may appear nowhere else.
func (t *Token) credential() (path string, body map[string]string, secret string, err error) {
	c := &t.cfg
	path = "auth/" + c.AuthMount + "/login"
	switch c.Auth {
	case AuthToken:
		s, err := hsm.ReadSecret(c.TokenFile, maxSecret)
		return "", nil, string(s), err
	case AuthAppRole:
		s, err := hsm.ReadSecret(c.SecretIDFile, maxSecret)
		return path, map[string]string{"role_id": c.RoleID, "secret_id": string(s)}, string(s), err
	case AuthKubernetes: // the kubelet writes it readable to the pod's user alone, but not as 0600
		s, err := readBounded(c.JWTFile)
		jwt := strings.TrimSpace(string(s))
		return path, map[string]string{"role": c.Role, "jwt": jwt}, jwt, err
	default: // AuthCert: the handshake is the credential
		body = map[string]string{}
		if c.Role != "" {
			body["name"] = c.Role
		}
		return path, body, "", nil
	}
}

// obtain sends the login; with a token from a file it asks how long that lasts.
func (t *Token) obtain(ctx context.Context, path string, body map[string]string, secret string) (*grant, error) {
	since := time.Now()
	if path == "" {
		if secret == "" || strings.ContainsFunc(secret, func(r rune) bool { return r <= 0x20 || r > 0x7e }) {
			return nil, fmt.Errorf("%w: %s holds no token of printable characters", errRefused, t.cfg.TokenFile)
		}
		var out struct {
			Data struct {
				TTL       int64    `json:"ttl"`
				Renewable bool     `json:"renewable"`
				Policies  []string `json:"policies"`
			} `json:"data"`
		}
		if err := t.wire.call(ctx, secret, "GET", "auth/token/lookup-self", nil, &out); err != nil {
			return nil, err
		}
		if slices.Contains(out.Data.Policies, "root") {
			t.logger.Warn("the Vault token has the root policy: whoever reads its file has the whole server", "file", t.cfg.TokenFile)
		}
		lease := time.Duration(out.Data.TTL) * time.Second
		return &grant{token: secret, lease: lease, full: lease, since: since, born: since, renewable: out.Data.Renewable}, nil
	}
	var out loginAnswer
	if err := t.wire.call(ctx, "", "POST", path, body, &out); err != nil {
		return nil, err
	}
	g := out.grant(since)
	if g.token == "" || strings.ContainsFunc(g.token, func(r rune) bool { return r <= 0x20 || r > 0x7e }) {
		return nil, fmt.Errorf("%w: the answer to the login holds no token", errLost)
	}
	g.full, g.born = g.lease, since
	return g, nil
}

// loginAnswer is the part of login and renewal answers that counts.
type loginAnswer struct {
	Auth struct {
		ClientToken   string `json:"client_token"`
		LeaseDuration int64  `json:"lease_duration"`
		Renewable     bool   `json:"renewable"`
	} `json:"auth"`
}

func (a *loginAnswer) grant(since time.Time) *grant {
	return &grant{token: a.Auth.ClientToken, lease: time.Duration(a.Auth.LeaseDuration) * time.Second, since: since, renewable: a.Auth.Renewable}
}

// scrub cuts a secret out of an error's text, should the server have echoed it.
func scrub(err error, secret string) error {
	if err == nil || len(secret) < 4 || !strings.Contains(err.Error(), secret) {
		return err
	}
	text := strings.ReplaceAll(err.Error(), secret, "***")
	for _, kind := range []error{errDenied, errLost, errAbsent, errRefused, errFault} {
		if errors.Is(err, kind) {
			return fmt.Errorf("%w: %s", kind, text)
		}
	}
	return errors.New(text)
}

// proveNamespace asks for the token in a namespace that cannot exist. A server that
// answers ignores the header, and the keys would be those of its root.
func (t *Token) proveNamespace(ctx context.Context, g *grant) error {
	if t.cfg.Namespace == "" {
		return nil
	}
	if err := t.wire.call(ctx, g.token, "GET", "auth/token/lookup-self", nil, nil); err != nil {
		return fmt.Errorf("looking up the token in namespace %s: %w", t.cfg.Namespace, err)
	}
	absent := t.cfg.Namespace + "/redoubt-absent-" + strings.ToLower(rand.Text())
	switch err := t.wire.callIn(ctx, absent, g.token, "GET", "auth/token/lookup-self", nil, nil); {
	case err == nil:
		return fmt.Errorf("the server ignores namespaces: it answered for one that does not exist as it does for %q; remove the namespace or use an edition that has them: %w", t.cfg.Namespace, hsm.ErrUnsupported)
	case errors.Is(err, errLost), errors.Is(err, errFault):
		return fmt.Errorf("proving that the server honours namespaces: %w", err)
	}
	return nil
}

// serverState is what the server says of itself, for inventories; nothing depends
// on it.
func (t *Token) serverState(ctx context.Context) map[string]string {
	state := map[string]string{"address": t.cfg.Address, "mount": t.cfg.Mount}
	if t.cfg.Namespace != "" {
		state["namespace"] = t.cfg.Namespace
	}
	var health struct {
		Version     string `json:"version"`
		ClusterName string `json:"cluster_name"`
		ClusterID   string `json:"cluster_id"`
	}
	// sys/health is served in the root namespace only.
	if err := t.wire.callIn(ctx, "", "", "GET", "sys/health", nil, &health); err == nil {
		state["version"], state["cluster"], state["cluster id"] = clip(health.Version), clip(health.ClusterName), clip(health.ClusterID)
	}
	return state
}

// schedule plans the renewal of a grant at two thirds of its lease. The gate is held.
func (t *Token) schedule(g *grant) {
	if t.renewal != nil {
		t.renewal.Stop()
	}
	if g.lease <= 0 || t.closed.Load() {
		return
	}
	t.renewal = time.AfterFunc(max(time.Until(g.since.Add(g.lease*2/3)), 100*time.Millisecond), func() { t.renew(g) })
}

// renew extends the grant, and where that no longer gives a full lease — a token
// has a maximum life, at which renewal still answers with success — logs in anew.
// The old token goes on signing until the new one is there.
func (t *Token) renew(g *grant) {
	ctx, cancel := context.WithTimeout(context.Background(), t.cfg.Timeout)
	defer cancel()
	select {
	case t.gate <- struct{}{}:
		defer func() { <-t.gate }()
	case <-t.ended:
		return
	case <-ctx.Done():
		return
	}
	s := t.live.Load()
	if s == nil || s.grant != g {
		return // lost or replaced meanwhile: whoever connects next sees to it
	}
	if g.renewable {
		since := time.Now()
		var out loginAnswer
		err := t.wire.call(ctx, g.token, "POST", "auth/token/renew-self", struct{}{}, &out)
		if err == nil {
			next := out.grant(since)
			next.token, next.full, next.born = g.token, g.full, g.born
			if next.lease >= g.full*2/3 { // 0 is less than a second, not no end
				t.replace(s, next)
				return
			}
			g = next // shrunk: close to its end
		} else if !errors.Is(err, errDenied) && !errors.Is(err, errRefused) {
			t.again(s, g, err)
			return
		}
	}
	next, err := t.login(ctx)
	if err == nil {
		err = t.proveNamespace(ctx, next)
	}
	if err != nil {
		t.again(s, g, err)
		return
	}
	if t.cfg.Auth == AuthToken && next.token == g.token { // the file still holds the old one
		t.again(s, next, errors.New("token-file holds the same token as before"))
		return
	}
	t.logger.Info("logged in to Vault anew, the token could not be renewed further", "address", t.cfg.Address, "auth", t.cfg.Auth)
	t.replace(s, next)
}

// replace puts a session with a new grant in the place of s; what was compared
// stays compared, the server did not go away. The gate is held.
func (t *Token) replace(s *session, g *grant) {
	s.mu.Lock()
	next := &session{grant: g, state: s.state, seen: s.seen}
	s.seen = map[string]bool{}
	s.mu.Unlock()
	if t.live.CompareAndSwap(s, next) {
		t.schedule(g)
	}
}

// again plans the next try of a renewal that failed, the sooner the nearer the end.
// The gate is held.
func (t *Token) again(s *session, g *grant, reason error) {
	left := time.Until(g.since.Add(g.lease))
	if left <= 0 || t.closed.Load() {
		return // the next signature is denied and logs in
	}
	t.logger.Warn("renewing the Vault token failed, trying again", "address", t.cfg.Address, "auth", t.cfg.Auth, "left", left.Round(time.Second), "reason", reason)
	grant := s.grant
	t.renewal = time.AfterFunc(max(left/3, 500*time.Millisecond), func() { t.renew(grant) })
}
