package main

import (
	"context"
	"errors"
	"fmt"
	"redoubt.internal/appliance/cmdline"
	"slices"
)

var (
	errOtherFile  = errors.New("the file is not the one that the other roles read")
	errNotReadied = errors.New("that file was not made ready here, or not since this process started")
)

// fileArgs name a configuration file by what is in it.
type fileArgs struct {
	SHA256 string `json:"sha256"`
}

// readyOthers has every other role that runs make the same file ready, and returns them. One that cannot keeps all from taking it up; one
// that does not run takes the file at its start.
func (in *instance) readyOthers(ctx context.Context, r *reloadResult) (others []string, err error) {
	if in.parts == nil {
		return nil, nil
	}
	for _, part := range partNames {
		if in.parts.runs(part) {
			continue
		}
		their, err := ask[reloadResult](ctx, in.cfg, part, readyOperation, fileArgs{r.SHA256})
		switch {
		case err == nil:
			others = append(others, part)
			r.Restart = append(r.Restart, their.Restart...)
		case !errors.Is(err, errRoleDown):
			return nil, fmt.Errorf("nobody takes the file up, because the role %s cannot: %w", part, err)
		case slices.Contains(runningParts(in.cfg), part):
			r.Absent = append(r.Absent, part)
		}
	}
	slices.Sort(r.Restart)
	r.Restart = slices.Compact(r.Restart)
	return others, nil
}

// forceOthers has the roles that made a file ready put it in force. One that ended in between takes the file at its start.
func (in *instance) forceOthers(ctx context.Context, r *reloadResult, others []string) error {
	if in.parts == nil {
		return nil
	}
	var errs []error
	for _, part := range partNames {
		if !in.parts.runs(part) {
			if !slices.Contains(others, part) {
				continue
			}
			if _, err := ask[struct{}](context.WithoutCancel(ctx), in.cfg, part, forceOperation, fileArgs{r.SHA256}); err != nil {
				errs = append(errs, cmdline.Hinted(fmt.Errorf("the other roles took the file up, %s did not: %w", part, err), "`systemctl restart redoubt-%s`", part))
				continue
			}
		}
		r.Roles = append(r.Roles, part)
	}
	return errors.Join(errs...)
}

// readyFor makes the file ready for the role that asks, if it is the one that it read.
func (s *server) readyFor(ctx context.Context, in *instance, a fileArgs) (reloadResult, error) {
	c, err := s.ready(ctx, in)
	if err == nil && c.SHA256 != a.SHA256 {
		err = fmt.Errorf("%w: %s has SHA-256 %s", errOtherFile, s.configPath, c.SHA256)
	}
	if err == nil {
		s.readied = c
	}
	return c.reloadResult, err
}

// forceFor puts a file in force that was made ready.
func (s *server) forceFor(ctx context.Context, in *instance, a fileArgs) (struct{}, error) {
	c := s.readied
	if c == nil || c.SHA256 != a.SHA256 || c.in != in {
		return struct{}{}, errNotReadied
	}
	s.force(ctx, c)
	s.reloaded.Store(&reloadState{in.now(), nil})
	s.logger.Info("reloaded", "by", rolePrefix+partCA, "rules changed", c.Changed, "restart needed for", c.Restart)
	return struct{}{}, nil
}

// reloadFor is one of the two steps of a reload that the ca role asks for.
func reloadFor[R any](s *server, step func(context.Context, *instance, fileArgs) (R, error)) func(context.Context, string, []byte) (any, error) {
	return func(ctx context.Context, _ string, text []byte) (any, error) {
		a, err := decodeCall[fileArgs](text)
		if err != nil {
			return nil, err
		}
		leave, err := s.gate.enter(ctx)
		if err != nil {
			return nil, err
		}
		defer leave()
		s.reloading.Lock()
		defer s.reloading.Unlock()
		return step(ctx, s.instance(), a)
	}
}
