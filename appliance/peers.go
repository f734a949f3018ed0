package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/log/audit"
)

// What roles ask of each other, over DIR/run/<role>/redoubt.sock. The kernel says which user asks (SO_PEERCRED), the configuration which
// role that user is; a role is answered what stands in peerMay, and root and the process's own user everything.

var (
	errTogether = errors.New("this state directory is one process's: no role has files of its own")
	errStranger = errors.New("this user may not ask for that")
	errRoleDown = errors.New("the role that would answer does not run")
	errUnheard  = errors.New("the processes that have the logs have not said yet whether this directory is the newest copy")
)

const hearAgainAfter = time.Second

// What roles ask of each other besides verbs.
const (
	recordOperation      = "peer.record"
	olderOperation       = "peer.older"
	certificateOperation = "peer.certificate"
	actOperation         = "peer.act"
	readyOperation       = "peer.reload.ready"
	forceOperation       = "peer.reload.force"
	metricsOperation     = "peer.metrics"
)

// peerMay is what the process of each role may ask of others.
var peerMay = map[string][]string{
	partCA:        {actOperation, readyOperation, forceOperation, shareOperation},
	partLog:       {recordOperation, certificateOperation},
	partTSA:       {recordOperation, certificateOperation, olderOperation},
	partTrust:     {recordOperation, certificateOperation, olderOperation, identityList.name},
	partOIDC:      {recordOperation, certificateOperation},
	partConsole:   {recordOperation, certificateOperation, readStatus.name, metricsOperation},
	partAdmission: {recordOperation},
	partFront:     {recordOperation},
}

// ownMay is what the user of a role may ask the process of that role for: what its timers do.
var ownMay = map[string][]string{partCA: {mirrorPull.name, mirrorReconcile.name, mirrorLook.name}}

// mayAsk reports whether the user of a role may ask this process for an operation.
func (p parts) mayAsk(part, operation string) bool {
	return slices.Contains(peerMay[part], operation) || p.runs(part) && slices.Contains(ownMay[part], operation)
}

// peerOperations are what roles ask of each other besides verbs.
func peerOperations() []operation {
	return []operation{peerRecord.operation(), peerOlder.operation(), peerCertificate.operation(), {name: actOperation}, {name: readyOperation}, {name: forceOperation}, {name: metricsOperation}}
}

// servedPeer is how a peer's operation is done that is the server's more than its instance's; nil of others.
func (s *server) servedPeer(name string) func(ctx context.Context, part string, args []byte) (any, error) {
	switch name {
	case actOperation:
		return s.actFor
	case readyOperation:
		return reloadFor(s, s.readyFor)
	case forceOperation:
		return reloadFor(s, s.forceFor)
	case metricsOperation:
		return s.readMetrics
	}
	return nil
}

// partOfPeer is the role whose user the kernel says is at the other end; "" of people.
func (in *instance) partOfPeer(uid int, known bool) string {
	if !known || in.cfg.Roles == nil {
		return ""
	}
	return in.cfg.Roles.partOf(uid)
}

// servePeer answers one operation for the process of another role, or refuses what peerMay does not say, which is recorded.
func (s *server) servePeer(w http.ResponseWriter, r *http.Request, name, part string) {
	if name == shareOperation && slices.Contains(peerMay[part], name) {
		s.serveShare(w, r)
		return
	}
	all := append(operations(), peerOperations()...)
	i := slices.IndexFunc(all, func(o operation) bool { return o.name == name })
	args, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxCallBytes))
	var result any
	switch {
	case err != nil:
		err = cmdline.Usage("arguments of %s: %v", name, err)
	case i < 0 || !s.instance().parts.mayAsk(part, name):
		err = s.instance().refuseRole(r.Context(), part, name)
	case s.servedPeer(name) != nil:
		result, err = s.servedPeer(name)(r.Context(), part, args)
	default:
		result, err = s.answerPeer(r.Context(), all[i], rolePrefix+part, args)
	}
	if err != nil {
		writeFailure(w, err)
		return
	}
	writeJSON(w, http.StatusOK, result)
}

// refuseRole is why a role does not get what it asks for, recorded.
func (in *instance) refuseRole(ctx context.Context, part, operation string) error {
	err := fmt.Errorf("%w: %s by the role %s", errStranger, operation, part)
	in.logger.WarnContext(ctx, "a role asks for what is not its own", "role", part, "operation", operation)
	e := audit.Event{Actor: rolePrefix + part, Action: "peer.refuse", Object: fmt.Sprintf("%.100q", operation), Outcome: audit.Refused}
	return errors.Join(err, in.put(ctx, e))
}

func (s *server) answerPeer(ctx context.Context, o operation, actor string, args []byte) (any, error) {
	leave, err := s.gate.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	return o.run(ctx, s.instance(), actor, args)
}

const rolePrefix = "role:"

// peerRecord writes an event of another role to the audit log. What that role says of who asked it is its word alone, and stands so.
var peerRecord = verb[audit.Event, struct{}]{recordOperation, func(ctx context.Context, in *instance, actor string, e audit.Event) (struct{}, error) {
	if in.audit == nil {
		return struct{}{}, fmt.Errorf("%w: records are kept by %s", errOtherProcess, partCA)
	}
	e.Actor, e.Time = actor+" for "+e.Actor, time.Time{}
	_, err := in.audit.Add(ctx, e, nil)
	return struct{}{}, err
}}

// recordElsewhere has the process with the audit log record an event. What it does not record is not done.
func (in *instance) recordElsewhere(ctx context.Context, e audit.Event) error {
	_, err := ask[struct{}](ctx, in.cfg, partCA, recordOperation, e)
	if err != nil {
		return fmt.Errorf("recording %s: %w", e.Action, err)
	}
	return nil
}

// age is whether a process found its logs behind their marks: the sentence that says so, "" where they are not.
type age struct {
	Older string `json:"older,omitempty"`
}

var peerOlder = verb[struct{}, age]{olderOperation, func(_ context.Context, in *instance, _ string, _ struct{}) (a age, err error) {
	if err := in.olderHere(); err != nil {
		a.Older = err.Error()
	}
	return a, nil
}}

// hearPeers learns, until ctx ends, whether the processes that have the logs found the directory to be an older copy. Before both have
// said that it is not, this one signs nothing that an older copy must not; what they said holds while they are away.
func (in *instance) hearPeers(ctx context.Context) {
	if in.parts == nil || !in.parts.runs(partTSA) && !in.parts.runs(partTrust) {
		return // the others sign nothing that an older copy must not, but in their logs, which know
	}
	for {
		err := in.askPeers(ctx)
		if known := in.heard.Load(); err == nil || errors.Is(err, errOlderCopy) || known == nil {
			in.heard.Store(&err)
		}
		wait := hearAgainAfter
		if err == nil {
			wait = 30 * time.Second
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

func (in *instance) askPeers(ctx context.Context) error {
	for _, part := range []string{partCA, partLog} {
		if in.parts.runs(part) {
			continue
		}
		a, err := ask[age](ctx, in.cfg, part, olderOperation, struct{}{})
		if err != nil {
			return fmt.Errorf("%w: %w", errUnheard, err)
		}
		if a.Older != "" {
			return fmt.Errorf("%w: the %s role says: %s", errOlderCopy, part, a.Older)
		}
	}
	return nil
}

// peersOlder is what was heard last.
func (in *instance) peersOlder() error {
	if in.parts == nil || !in.parts.runs(partTSA) && !in.parts.runs(partTrust) {
		return nil
	}
	if heard := in.heard.Load(); heard != nil {
		return *heard
	}
	return errUnheard
}

// ask calls one operation of the process that runs a role.
func ask[R any](ctx context.Context, cfg *Config, part, operation string, args any) (result R, err error) {
	raw, err := json.Marshal(args)
	if err != nil {
		return result, fmt.Errorf("encoding the arguments: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, peerTimeout)
	defer cancel()
	answer, err := callSocket(ctx, layout{cfg.Dir}.run(part), operation, raw)
	if errors.Is(err, errNoServer) {
		err = roleDown(part)
	}
	if err != nil {
		return result, err
	}
	return result, json.Unmarshal(answer, &result)
}

// peerTimeout bounds what one role waits for another: a signature of the audit log and a token that has to be opened for it.
const peerTimeout = 15 * time.Second

func roleDown(part string) error {
	return cmdline.Hinted(cmdline.Unavailable(fmt.Errorf("%w: %s", errRoleDown, part)), "`systemctl start redoubt-%s`, or `redoubt serve --roles %s`", part, part)
}

// callServer posts one operation to the server: to the one process, or to those whose roles it concerns, whose answers it joins.
// errNoServer means that nobody listens.
func callServer(ctx context.Context, cfg *Config, name string, args []byte) ([]byte, error) {
	dir := layout{cfg.Dir}
	answer, err := callSocket(ctx, dir.run(""), name, args)
	if !errors.Is(err, errNoServer) || cfg.Roles == nil || !dir.answers(ctx, nil) {
		return answer, err
	}
	where, err := placeOf(cfg, name, args)
	if err != nil {
		return nil, err
	}
	return where.gather(func(part string) ([]byte, error) { return callSocket(ctx, dir.run(part), name, args) })
}

// answered reports whether a process answers.
func answered(ctx context.Context, cfg *Config) bool {
	dir := layout{cfg.Dir}
	conn, err := dialSocket(ctx, dir)
	if err == nil {
		conn.Close()
	}
	return !noServer(err) || cfg.Roles != nil && dir.answers(ctx, nil)
}

// roleOfActor is the role that asks; "" of a person.
func roleOfActor(actor string) string {
	part, ok := strings.CutPrefix(actor, rolePrefix)
	if !ok {
		return ""
	}
	return part
}
