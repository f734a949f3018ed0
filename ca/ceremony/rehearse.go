package ceremony

import (
	"context"
	"errors"
	"fmt"
)

// Rehearse holds the whole ceremony on stand-in keys, by the same steps as the
// run: of a plan for two machines all three parts, one after the other. The
// transcript says that it is a rehearsal, and so does every one inside it.
// StandIn must be set.
func (s Session) Rehearse(ctx context.Context, plan Plan) (*Transcript, error) {
	if s.StandIn == nil {
		return nil, errors.New("a rehearsal without stand-ins")
	}
	s.Requests, s.Certificates = nil, nil
	if !plan.InParts() {
		return s.Run(ctx, plan)
	}
	requests, err := s.part(ctx, plan)
	if err != nil {
		return nil, fmt.Errorf("making the requests: %w", err)
	}
	s.Requests = requests
	certificates, err := s.part(ctx, plan)
	if err != nil {
		return nil, fmt.Errorf("signing the requests: %w", err)
	}
	s.Requests, s.Certificates = nil, certificates
	t, err := s.Run(ctx, plan)
	if err != nil {
		return nil, fmt.Errorf("taking the certificates in: %w", err)
	}
	return t, nil
}

// part runs one part and returns what is carried to the other side.
func (s Session) part(ctx context.Context, plan Plan) ([]byte, error) {
	t, err := s.Run(ctx, plan)
	if err != nil {
		return nil, err
	}
	return t.Encode()
}
