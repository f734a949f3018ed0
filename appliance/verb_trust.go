package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/ca/trust"
)

func trustCommand() *cli.Command {
	flags := append(cmdline.StateFlags(), cmdline.OutputFlag())
	show := func(v verb[struct{}, []trust.RoleStatus]) cli.ActionFunc {
		return func(c *cli.Context) error {
			roles, err := v.call(c, struct{}{})
			if err != nil {
				return err
			}
			return cmdline.PrintResult(c, roles, func(w io.Writer) {
				for _, r := range roles {
					fmt.Fprintf(w, "%-10s version %d, until %s\n", r.Role, r.Version, r.Expires.Format(time.RFC3339))
				}
			})
		}
	}
	return &cli.Command{
		Name: "trust", Usage: "the TUF repository clients initialise from",
		Subcommands: []*cli.Command{
			{Name: "publish", Usage: "publish the trusted root and signing configs of the present configuration", Flags: flags, Action: show(trustPublish)},
			{Name: "renew", Usage: "sign a fresh timestamp, and roles that are about to expire", Flags: flags, Action: show(trustRenew)},
			rotateCommand("rotate", "a new key of the trust repository", func(*cli.Context) (string, error) { return roleTUF, nil }),
			{Name: "status", Usage: "version and expiry of every role", Flags: flags, Action: show(trustStatus)},
		},
	}
}

// tufConfig says where the trust repository lies and which key signs it.
func (in *instance) tufConfig() trust.RepositoryConfig {
	return trust.RepositoryConfig{Dir: in.dir.tuf(), Floor: in.onRecord().TrustFloor, Signer: in.active(roleTUF), Lifetime: trust.Lifetime{Timestamp: time.Duration(in.cfg.TUF.Expiry)}, Now: in.now, Logger: in.logger}
}

var trustStatus = verb[struct{}, []trust.RoleStatus]{"trust.status", func(_ context.Context, in *instance, _ string, _ struct{}) ([]trust.RoleStatus, error) {
	return in.tuf.Status(), nil
}}

var trustRenew = verb[struct{}, []trust.RoleStatus]{"trust.renew", func(ctx context.Context, in *instance, actor string, _ struct{}) ([]trust.RoleStatus, error) {
	if err := in.mayPublish(); err != nil {
		return nil, err
	}
	if err := in.record(ctx, actor, "trust.renew", in.cfg.Domain, nil); err != nil {
		return nil, err
	}
	if err := in.tuf.Renew(ctx); err != nil {
		return nil, err
	}
	return in.tuf.Status(), nil
}}

var trustPublish = verb[struct{}, []trust.RoleStatus]{"trust.publish", func(ctx context.Context, in *instance, actor string, _ struct{}) ([]trust.RoleStatus, error) {
	if err := in.mayPublish(); err != nil {
		return nil, err
	}
	m, err := in.material()
	if err != nil {
		return nil, err
	}
	targets, err := m.Targets()
	if err != nil {
		return nil, err
	}
	if err := in.record(ctx, actor, "trust.publish", in.cfg.Domain, nil); err != nil {
		return nil, err
	}
	if err := in.tuf.Publish(ctx, targets); err != nil {
		return nil, err
	}
	return in.tuf.Status(), nil
}}

// tufExpiry is when clients begin to refuse the repository: the earliest end of any role.
func (in *instance) tufExpiry() (first time.Time) {
	if in.tuf == nil { // another role's
		return first
	}
	for _, r := range in.tuf.Status() {
		if first.IsZero() || r.Expires.Before(first) {
			first = r.Expires
		}
	}
	return first
}

var errTrustExpired = errors.New("the trust repository has expired")

func (in *instance) tufFresh() error {
	if until := in.tufExpiry(); in.now().After(until) {
		return fmt.Errorf("%w: on %s", errTrustExpired, until.Format(time.RFC3339))
	}
	return nil
}
