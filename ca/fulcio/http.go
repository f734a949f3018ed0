package fulcio

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	fulciogrpc "github.com/sigstore/fulcio/pkg/generated/protobuf"
	"github.com/sigstore/fulcio/pkg/generated/protobuf/legacy"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"redoubt.internal/ca"
	"redoubt.internal/ca/identity"
)

// Bounds of one HTTP request.
const (
	// maxBody bounds a request body in bytes; Fulcio's own limit. The largest honest
	// one holds a token of 32 KiB and a key.
	maxBody = 4 << 20
	// bodyTime bounds how long a body may take to arrive.
	bodyTime = 10 * time.Second
)

// pemChain is the content type of version 1.
const pemChain = "application/pem-certificate-chain"

// Handler serves the whole API for one authority. It answers gRPC too when the
// server in front of it speaks HTTP/2.
func Handler(a *ca.Authority, v *identity.Verifier, o Options) http.Handler {
	s := &api{authority: a, identity: v, chains: append([][]*x509.Certificate{a.Chain()}, o.FormerChains...), logger: o.Logger}
	if s.logger == nil {
		s.logger = slog.New(slog.DiscardHandler)
	}
	for _, c := range a.Chain() {
		s.above = append(s.above, pemOf(c.Raw))
	}
	routes := s.routes()
	rpc := newRPC(s)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
			rpc.ServeHTTP(w, r)
			return
		}
		h := w.Header()
		h.Set("Access-Control-Allow-Origin", "*")
		h.Set("X-Content-Type-Options", "nosniff")
		route, ok := routes[strings.TrimSuffix(r.URL.Path, "/")]
		switch {
		case !ok:
			serveError(w, http.StatusNotFound, status.New(codes.NotFound, "Not Found"))
		case r.Method == http.MethodOptions:
			h.Set("Access-Control-Allow-Methods", route.method)
			h.Set("Access-Control-Allow-Headers", "Authorization, Content-Type")
			h.Set("Allow", route.method+", OPTIONS")
			w.WriteHeader(http.StatusNoContent)
		case r.Method != route.method && !(r.Method == http.MethodHead && route.method == http.MethodGet):
			h.Set("Allow", route.method+", OPTIONS")
			serveError(w, http.StatusMethodNotAllowed, status.New(codes.Unimplemented, "Method Not Allowed"))
		default:
			if err := route.serve(w, r); err != nil {
				st := status.Convert(err)
				serveError(w, httpStatus(st.Code()), st)
			}
		}
	})
}

// route is one path of the HTTP face.
type route struct {
	method string
	serve  func(http.ResponseWriter, *http.Request) error
}

func (s *api) routes() map[string]route {
	return map[string]route{
		"/api/v2/signingCert":   {http.MethodPost, s.serveSigningCert},
		"/api/v2/trustBundle":   {http.MethodGet, s.serveTrustBundle},
		"/api/v2/configuration": {http.MethodGet, s.serveConfiguration},
		"/api/v1/signingCert":   {http.MethodPost, s.serveLegacySigningCert},
		"/api/v1/rootCert":      {http.MethodGet, s.serveRootCert},
		"/healthz":              {http.MethodGet, s.serveHealth},
	}
}

// Routes lists what Handler serves as patterns of http.ServeMux, the methods of gRPC among them.
func Routes() (patterns []string) {
	s := &api{logger: slog.New(slog.DiscardHandler)}
	for path, r := range s.routes() {
		patterns = append(patterns, r.method+" "+path, http.MethodOptions+" "+path)
	}
	for service, info := range newRPC(s).GetServiceInfo() {
		for _, m := range info.Methods {
			patterns = append(patterns, http.MethodPost+" /"+service+"/"+m.Name)
		}
	}
	return patterns
}

// serveSigningCert answers version 2 in JSON, whatever the client accepts.
func (s *api) serveSigningCert(w http.ResponseWriter, r *http.Request) error {
	var request fulciogrpc.CreateSigningCertificateRequest
	if err := readJSON(w, r, &request); err != nil {
		return err
	}
	leaf, err := s.processSigningCert(r.Context(), bearer(r), &request)
	if err != nil {
		return err
	}
	body := s.signingCertificateJSON(leaf)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body)
	return nil
}

// serveLegacySigningCert answers version 1: 201 and PEM, leaf first.
func (s *api) serveLegacySigningCert(w http.ResponseWriter, r *http.Request) error {
	var old legacy.CreateSigningCertificateRequest
	if err := readJSON(w, r, &old); err != nil {
		return err
	}
	leaf, err := s.processSigningCert(r.Context(), bearer(r), upgrade(&old))
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", pemChain)
	w.WriteHeader(http.StatusCreated)
	_, _ = io.WriteString(w, leaf+strings.Join(s.above, ""))
	return nil
}

// upgrade turns a version 1 request into version 2.
func upgrade(old *legacy.CreateSigningCertificateRequest) *fulciogrpc.CreateSigningCertificateRequest {
	r := &fulciogrpc.CreateSigningCertificateRequest{}
	//nolint:staticcheck // version 1 is deprecated as a whole and served as a whole
	csr, key, proof := old.GetCertificateSigningRequest(), old.GetPublicKey().GetContent(), old.GetSignedEmailAddress()
	if len(csr) > 0 {
		r.Key = &fulciogrpc.CreateSigningCertificateRequest_CertificateSigningRequest{CertificateSigningRequest: csr}
		return r
	}
	r.Key = &fulciogrpc.CreateSigningCertificateRequest_PublicKeyRequest{PublicKeyRequest: &fulciogrpc.PublicKeyRequest{
		PublicKey:         &fulciogrpc.PublicKey{Content: string(key)},
		ProofOfPossession: proof,
	}}
	return r
}

func (s *api) serveTrustBundle(w http.ResponseWriter, _ *http.Request) error {
	return serveJSON(w, s.processTrustBundle())
}

func (s *api) serveConfiguration(w http.ResponseWriter, _ *http.Request) error {
	return serveJSON(w, s.processConfiguration())
}

// serveRootCert answers the current chain in PEM, issuing certificate first.
func (s *api) serveRootCert(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Content-Type", pemChain)
	for _, chain := range s.processTrustBundle().GetChains() {
		_, _ = io.WriteString(w, strings.Join(chain.GetCertificates(), ""))
	}
	return nil
}

// serveHealth says that the process answers; readiness is the appliance's.
func (s *api) serveHealth(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, `{"status":"SERVING"}`)
	return nil
}

// bearer returns the token of the Authorization header, "" when there is none.
func bearer(r *http.Request) string {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

// readJSON reads a bounded body as the proto-JSON of m. Unknown fields are
// ignored, as grpc-gateway does: clients send more than the API names.
func readJSON(w http.ResponseWriter, r *http.Request, m proto.Message) error {
	if e := r.Header.Get("Content-Encoding"); e != "" && !strings.EqualFold(e, "identity") {
		return status.Error(codes.InvalidArgument, "compressed request bodies are not accepted")
	}
	if r.ContentLength > maxBody {
		return status.Errorf(codes.InvalidArgument, "request body is larger than %d bytes", maxBody)
	}
	// A server that cannot set deadlines bounds reading itself.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTime))
	var body bytes.Buffer
	body.Grow(int(min(max(r.ContentLength, 0), 64<<10)) + bytes.MinRead) // one read for an honest request; nothing much for a promised one
	if _, err := body.ReadFrom(http.MaxBytesReader(w, r.Body, maxBody)); err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			return status.Errorf(codes.InvalidArgument, "request body is larger than %d bytes", maxBody)
		}
		return status.Error(codes.InvalidArgument, "request body could not be read")
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true, RecursionLimit: 32}).Unmarshal(body.Bytes(), m); err != nil {
		return status.Error(codes.InvalidArgument, "request body is not the JSON of a signing request: "+reason(err))
	}
	return nil
}

// serveJSON writes m with every field named, as grpc-gateway does.
func serveJSON(w http.ResponseWriter, m proto.Message) error {
	body, err := protojson.MarshalOptions{EmitUnpopulated: true}.Marshal(m)
	if err != nil {
		return fmt.Errorf("encoding answer: %w", err)
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(body)
	return nil
}

// serveError writes {"code","message","details"}.
func serveError(w http.ResponseWriter, httpCode int, st *status.Status) {
	body, err := protojson.MarshalOptions{EmitUnpopulated: true}.Marshal(st.Proto())
	if err != nil {
		body = []byte(`{"code":13,"message":"internal error","details":[]}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(httpCode)
	_, _ = w.Write(body)
}

// httpStatus is grpc-gateway's table for the codes used here
// (runtime.HTTPStatusFromCode).
func httpStatus(c codes.Code) int {
	switch c {
	case codes.InvalidArgument:
		return http.StatusBadRequest
	case codes.PermissionDenied:
		return http.StatusForbidden
	case codes.Unavailable:
		return http.StatusServiceUnavailable
	case codes.Canceled:
		return 499
	default:
		return http.StatusInternalServerError
	}
}
