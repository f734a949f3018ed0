package fulcio

import (
	"context"
	"runtime/debug"
	"strings"

	fulciogrpc "github.com/sigstore/fulcio/pkg/generated/protobuf"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// newRPC is the gRPC face of s, to be served through an HTTP/2 server.
func newRPC(s *api) *grpc.Server {
	rpc := grpc.NewServer(
		grpc.MaxRecvMsgSize(maxBody),
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (answer any, err error) {
			defer func() { // net/http recovers for HTTP; grpc does not
				if p := recover(); p != nil {
					s.logger.ErrorContext(ctx, "panic while answering", "panic", p, "stack", string(debug.Stack()))
					answer, err = nil, status.Error(codes.Internal, "internal error")
				}
			}()
			return next(ctx, req)
		}),
	)
	fulciogrpc.RegisterCAServer(rpc, s)
	healthpb.RegisterHealthServer(rpc, health.NewServer())
	return rpc
}

// CreateSigningCertificate implements fulciogrpc.CAServer. The token may also
// come as metadata: oidcidentitytoken, as Fulcio's own gateway sends it, or
// authorization.
func (s *api) CreateSigningCertificate(ctx context.Context, r *fulciogrpc.CreateSigningCertificateRequest) (*fulciogrpc.SigningCertificate, error) {
	var token string
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		if v := md.Get("oidcidentitytoken"); len(v) == 1 {
			token = v[0]
		} else if v := md.Get("authorization"); len(v) == 1 {
			if scheme, t, _ := strings.Cut(v[0], " "); strings.EqualFold(scheme, "Bearer") {
				token = t
			}
		}
	}
	leaf, err := s.processSigningCert(ctx, token, r)
	if err != nil {
		return nil, err
	}
	return s.signingCertificate(leaf), nil
}

// GetTrustBundle implements fulciogrpc.CAServer.
func (s *api) GetTrustBundle(context.Context, *fulciogrpc.GetTrustBundleRequest) (*fulciogrpc.TrustBundle, error) {
	return s.processTrustBundle(), nil
}

// GetConfiguration implements fulciogrpc.CAServer.
func (s *api) GetConfiguration(context.Context, *fulciogrpc.GetConfigurationRequest) (*fulciogrpc.Configuration, error) {
	return s.processConfiguration(), nil
}
