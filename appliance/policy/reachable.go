package policy

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// errPatterns says that it would take too long to tell what patterns match together.
var errPatterns = errors.New("its patterns have so many wildcards that nobody can tell whether it is ever reached; write fewer")

// maxWork bounds the search for names that a pattern alone matches, in one policy, and maxPatterns the patterns of a policy.
const (
	maxWork     = 20_000_000
	maxPatterns = 10_000
)

// reachable refuses patterns by which their rule can never decide, because rules before it, or rules that deny, take everything that they match.
func (p *Policy) reachable() error {
	total, budget := 0, maxWork
	for _, r := range p.rules {
		if total += len(r.images) + len(r.artifacts); total > maxPatterns {
			return fmt.Errorf("more than %d patterns", maxPatterns)
		}
	}
	for i := range p.rules {
		r := &p.rules[i]
		var takers []*rule
		for k := range p.rules {
			if o := &p.rules[k]; o.deny && !r.deny || k < i && o.deny == r.deny {
				takers = append(takers, o)
			}
		}
		for _, kind := range []struct {
			name string
			of   func(*rule) []glob
		}{{"image", func(r *rule) []glob { return r.images }}, {"artifact", func(r *rule) []glob { return r.artifacts }}} {
			for _, g := range kind.of(r) {
				taker, err := takenBy(g, takers, kind.of, &budget)
				if err != nil {
					return fmt.Errorf("rule %q: %s pattern %q: %w", r.Name, kind.name, g.text, err)
				}
				if taker != "" {
					return fmt.Errorf("rule %q can never be reached by the %s pattern %q: %s before it or denying takes everything that it matches", r.Name, kind.name, g.text, taker)
				}
			}
		}
	}
	return nil
}

// takenBy names the rule, or says that it is several, that match everything g does; empty when a name is left to g.
func takenBy(g glob, takers []*rule, of func(*rule) []glob, budget *int) (string, error) {
	var all []glob
	for _, t := range takers {
		all = append(all, of(t)...)
	}
	if covered, err := covers(all, g, budget); err != nil || !covered {
		return "", err
	}
	for _, t := range takers {
		if covered, err := covers(of(t), g, budget); covered && err == nil {
			return fmt.Sprintf("rule %q", t.Name), nil
		}
	}
	return "what stands", nil
}

// covers tells whether every name that g matches is matched by one of others: the languages of both are compared, by walking the automaton of g
// and the determinised automaton of all others side by side, in search of a name that only g matches.
func covers(others []glob, g glob, budget *int) (bool, error) {
	if slices.ContainsFunc(others, func(o glob) bool { return o.text == g.text || o.text == "**" }) {
		return true, nil // the common cases need no search
	}
	type pair struct {
		at  int // state of g
		set string
	}
	var queue []pair
	seen := map[pair]bool{}
	visit := func(at int, set string) {
		for on := g.closure(make([]bool, len(g.atoms)+1), at); at < len(on); at++ {
			if next := (pair{at, set}); on[at] && !seen[next] {
				seen[next] = true
				queue = append(queue, next)
			}
		}
	}
	var start liveStates
	for i, o := range others {
		start = start.with(o, i, 0)
	}
	visit(0, start.key())
	alphabet := letters(append(slices.Clone(others), g))
	for len(queue) > 0 {
		p := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		live := readStates(p.set)
		if p.at == len(g.atoms) {
			if !live.accept(others) {
				return false, nil
			}
			continue
		}
		for _, b := range alphabet {
			if !g.atoms[p.at].takes(b) {
				continue
			}
			if *budget -= 1 + len(live); *budget < 0 {
				return false, errPatterns
			}
			next := p.at + 1
			if g.atoms[p.at].star {
				next = p.at
			}
			visit(next, live.step(others, b).key())
		}
	}
	return true, nil
}

// letters are the bytes that patterns tell apart: those in them, the slash, and one that stands for all others.
func letters(globs []glob) []byte {
	out := []byte{'/', 0}
	for _, g := range globs {
		for _, a := range g.atoms {
			if !a.star && !slices.Contains(out, a.b) {
				out = append(out, a.b)
			}
		}
	}
	return out
}

// liveStates are states of several patterns that are reached at once: the number of the pattern and the state in it.
type liveStates []liveState

type liveState struct{ glob, at uint16 }

// with adds a state of pattern i, and those that are reached from it without a byte.
func (l liveStates) with(g glob, i, at int) liveStates {
	for l = append(l, liveState{uint16(i), uint16(at)}); at < len(g.atoms) && g.atoms[at].star; {
		at++
		l = append(l, liveState{uint16(i), uint16(at)})
	}
	return l
}

// step is what is reached by one more byte.
func (l liveStates) step(globs []glob, b byte) (next liveStates) {
	for _, s := range l {
		g := globs[s.glob]
		if int(s.at) == len(g.atoms) || !g.atoms[s.at].takes(b) {
			continue
		}
		if g.atoms[s.at].star {
			next = next.with(g, int(s.glob), int(s.at))
		} else {
			next = next.with(g, int(s.glob), int(s.at)+1)
		}
	}
	return next
}

// accept tells whether one of the patterns matches what was read.
func (l liveStates) accept(globs []glob) bool {
	return slices.ContainsFunc(l, func(s liveState) bool { return int(s.at) == len(globs[s.glob].atoms) })
}

// key is the set in one spelling.
func (l liveStates) key() string {
	slices.SortFunc(l, func(a, b liveState) int { return cmp.Or(cmp.Compare(a.glob, b.glob), cmp.Compare(a.at, b.at)) })
	out := make([]byte, 0, 4*len(l))
	for _, s := range slices.Compact(l) {
		out = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(out, s.glob), s.at)
	}
	return string(out)
}

func readStates(key string) (l liveStates) {
	for ; key != ""; key = key[4:] {
		l = append(l, liveState{uint16(key[0])<<8 | uint16(key[1]), uint16(key[2])<<8 | uint16(key[3])})
	}
	return l
}
