package fake

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"strings"
	"time"
)

// grant makes a token and answers with it.
func (s *Server) grant(policies []string, ttl, longest time.Duration) answer {
	if ttl == 0 {
		ttl = 32 * 24 * time.Hour
	}
	if longest == 0 {
		longest = ttl
	}
	now := time.Now()
	t := &token{policies: policies, ttl: ttl, expires: now.Add(ttl), last: now.Add(longest), renewable: true}
	id := "hvs." + rand.Text()
	s.tokens[id] = t
	return s.leased(id, t)
}

func (s *Server) leased(id string, t *token) answer {
	left := int64(time.Until(t.expires).Round(time.Second).Seconds())
	return answer{http.StatusOK, map[string]any{"auth": map[string]any{"client_token": id, "lease_duration": left, "renewable": t.renewable}}}
}

// auth serves tokens and the administration of the auth methods.
func (s *Server) auth(r *request, t *token, path string) answer {
	switch path {
	case "token/create":
		return s.grant(r.list("policies"), r.span("ttl"), r.span("explicit_max_ttl"))
	case "token/lookup-self":
		left := int64(0)
		if t.ttl > 0 {
			left = int64(time.Until(t.expires).Seconds())
		}
		return data(map[string]any{"id": r.bearer, "ttl": left, "renewable": t.renewable, "policies": t.policies})
	case "token/renew-self":
		if t.ttl == 0 {
			return fail(http.StatusBadRequest, "lease is not renewable")
		}
		// Success even where nothing is gained: the lease ends at the maximum.
		if t.expires = time.Now().Add(t.ttl); t.expires.After(t.last) {
			t.expires = t.last
		}
		return s.leased(r.bearer, t)
	case "token/revoke-self":
		delete(s.tokens, r.bearer)
		return nothing
	case "token/revoke":
		delete(s.tokens, r.text("token"))
		return nothing
	}
	mount, rest, _ := strings.Cut(path, "/")
	name := strings.TrimPrefix(strings.TrimPrefix(rest, "role/"), "certs/")
	switch kind := s.mounts["auth/"+mount]; {
	case kind == "approle" && strings.HasSuffix(name, "/role-id"):
		if ro := s.roles[mount+"/"+strings.TrimSuffix(name, "/role-id")]; ro != nil {
			return data(map[string]any{"role_id": ro.id})
		}
	case kind == "approle" && strings.HasSuffix(name, "/secret-id"):
		if ro := s.roles[mount+"/"+strings.TrimSuffix(name, "/secret-id")]; ro != nil {
			id := rand.Text()
			ro.secrets[id] = ro.uses
			return data(map[string]any{"secret_id": id})
		}
	case kind == "approle", kind == "cert", kind == "kubernetes":
		if rest == "config" {
			return nothing
		}
		ro := &role{id: rand.Text(), secrets: map[string]int{}, policies: r.list("token_policies"), ttl: r.span("token_ttl"), max: r.span("token_max_ttl"), uses: -1,
			accounts: r.list("bound_service_account_names")}
		if n, ok := r.body["secret_id_num_uses"].(float64); ok && n > 0 {
			ro.uses = int(n)
		}
		if block, _ := pem.Decode([]byte(r.text("certificate"))); block != nil {
			ro.certificate, _ = x509.ParseCertificate(block.Bytes)
		}
		s.roles[mount+"/"+name] = ro
		return nothing
	}
	return fail(http.StatusNotFound, "unsupported path")
}

// login serves the methods, with Vault's words for refusals.
func (s *Server) login(r *request) answer {
	mount := strings.TrimSuffix(strings.TrimPrefix(r.path, "auth/"), "/login")
	switch s.mounts["auth/"+mount] {
	case "approle":
		for at, ro := range s.roles {
			if !strings.HasPrefix(at, mount+"/") || ro.id != r.text("role_id") {
				continue
			}
			left, ok := ro.secrets[r.text("secret_id")]
			if !ok || left == 0 {
				return fail(http.StatusBadRequest, "invalid role or secret ID")
			}
			if left > 0 {
				ro.secrets[r.text("secret_id")] = left - 1
			}
			return s.grant(ro.policies, ro.ttl, ro.max)
		}
		return fail(http.StatusBadRequest, "invalid role or secret ID")
	case "cert":
		for at, ro := range s.roles {
			if strings.HasPrefix(at, mount+"/") && ro.certificate != nil && r.TLS != nil && len(r.TLS.PeerCertificates) > 0 && bytes.Equal(r.TLS.PeerCertificates[0].Raw, ro.certificate.Raw) {
				return s.grant(ro.policies, ro.ttl, ro.max)
			}
		}
		return fail(http.StatusBadRequest, "invalid certificate or no client certificate supplied")
	case "kubernetes":
		ro := s.roles[mount+"/"+r.text("role")]
		if ro == nil {
			return fail(http.StatusBadRequest, `invalid role name "`+r.text("role")+`"`)
		}
		if !contains(ro.accounts, serviceAccount(r.text("jwt"))) {
			return fail(http.StatusForbidden, "service account name not authorized")
		}
		return s.grant(ro.policies, ro.ttl, ro.max)
	}
	return fail(http.StatusForbidden, "permission denied")
}

// serviceAccount reads the account's name out of a JWT, unverified.
func serviceAccount(jwt string) string {
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		return ""
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return ""
	}
	var claims struct {
		Kubernetes struct {
			Account struct {
				Name string `json:"name"`
			} `json:"serviceaccount"`
		} `json:"kubernetes.io"`
	}
	_ = json.Unmarshal(raw, &claims)
	return claims.Kubernetes.Account.Name
}
