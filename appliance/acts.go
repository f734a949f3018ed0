package main

import (
	"context"
	"encoding/json"
	"fmt"
	"redoubt.internal/appliance/cmdline"
	"slices"
)

// Where roles run apart, people ask one of them: the ca role, which has people.socket, services.people and the audit log. What they ask for
// is done by the role it belongs to. The kernel tells that role that ca asks; who the person is, is ca's word, and what the person may do
// the role reads in the configuration itself. In a person's name ca gets what that person may do alone, and no act of several people: those
// count approvals, which the role ca does, and ends with its own.

// personAct is an operation that a person asks a role for through another.
type personAct struct {
	Name      string          `json:"name"` // of the member of people
	How       string          `json:"how"`  // how the role that was asked knows that
	Operation string          `json:"operation"`
	Args      json.RawMessage `json:"args"`
}

// reach is operate for an operation that people ask this process for, wherever it is done. The answers of several roles are joined.
func (s *server) reach(ctx context.Context, o operation, who person, args json.RawMessage) (any, error) {
	in := s.instance()
	if in.parts == nil {
		return s.operate(ctx, o, who, args)
	}
	where, err := placeOf(in.cfg, o.name, args)
	if err != nil {
		return nil, err
	}
	leave, err := s.gate.enter(ctx)
	if err != nil {
		return nil, err
	}
	err = s.instance().permit(ctx, who, o.name)
	leave() // the role that does it has it recorded here
	if err != nil {
		return nil, err
	}
	act, err := json.Marshal(personAct{who.name, who.how, o.name, args})
	if err != nil {
		return nil, cmdline.Usage("arguments of %s: %v", o.name, err)
	}
	whole, err := where.gather(func(part string) ([]byte, error) {
		if !in.parts.runs(part) {
			return callSocket(ctx, in.dir.run(part), actOperation, act)
		}
		result, err := s.operate(ctx, o, who, args)
		if err != nil {
			return nil, err
		}
		return json.Marshal(result)
	})
	return json.RawMessage(whole), err
}

// actFor does for a person what another role asks for in their name.
func (s *server) actFor(ctx context.Context, part string, text []byte) (any, error) {
	a, err := decodeCall[personAct](text)
	if err != nil {
		return nil, cmdline.Usage("arguments of %s: %v", actOperation, err)
	}
	all := operations()
	i := slices.IndexFunc(all, func(o operation) bool { return o.name == a.Operation })
	if access, ok := operationAccess(a.Operation); i < 0 || !ok || access.after != alone {
		return nil, s.instance().refuseRole(ctx, part, a.Operation)
	}
	who := s.instance().law().member(a.Name, fmt.Sprintf("%.400q at %s%s", a.How, rolePrefix, part))
	return s.operate(ctx, all[i], who, a.Args)
}

// member is the member of people called name; somebody without roles where there is none.
func (l *law) member(name, how string) person {
	if i := slices.IndexFunc(l.people, func(m Person) bool { return m.Name == name }); i >= 0 {
		return person{name, how, l.people[i].Roles}
	}
	return person{how: how}
}
