package policy

import (
	"errors"
	"fmt"
	"strings"
)

// glob is a pattern of names: * stands for anything within one part of a name, ** for anything, parts are separated by slashes.
type glob struct {
	text  string
	atoms []atom
}

// atom is a byte, or a wildcard.
type atom struct {
	b          byte
	star, deep bool
}

// Bounds of patterns.
const (
	maxGlob  = 512 // bytes
	maxGlobs = 1000
)

// takes tells whether one byte fits the atom.
func (a atom) takes(b byte) bool {
	if a.star {
		return a.deep || b != '/'
	}
	return a.b == b
}

func compileGlobs(all []string, image bool) (out []glob, err error) {
	if len(all) > maxGlobs {
		return nil, fmt.Errorf("more than %d patterns", maxGlobs)
	}
	for _, text := range all {
		g, err := compileGlob(text)
		if err == nil && image {
			err = imageGlob(text)
		}
		if err != nil {
			return nil, fmt.Errorf("pattern %.100q: %w", text, err)
		}
		out = append(out, g)
	}
	return out, nil
}

func compileGlob(text string) (glob, error) {
	g := glob{text: text}
	if text == "" || len(text) > maxGlob {
		return g, fmt.Errorf("1 to %d bytes are needed", maxGlob)
	}
	for i := 0; i < len(text); i++ {
		switch {
		case text[i] < ' ' || text[i] == 0x7f:
			return g, errors.New("it has a control character")
		case text[i] != '*':
			g.atoms = append(g.atoms, atom{b: text[i]})
		case strings.HasPrefix(text[i:], "**"):
			i++
			g.atoms = append(g.atoms, atom{star: true, deep: true})
		default:
			g.atoms = append(g.atoms, atom{star: true})
		}
	}
	return g, nil
}

// imageGlob refuses what could match no image by its name.
func imageGlob(text string) error {
	last := text[strings.LastIndexByte(text, '/')+1:]
	if strings.ContainsAny(text, "@ ") || strings.Contains(last, ":") && strings.Contains(text, "/") {
		return errors.New("images are matched by HOST/REPOSITORY: a tag says nothing of what is in it, and a digest is judged by what vouches for it")
	}
	return nil
}

// matches tells whether the name fits. It takes time proportional to the product of both lengths.
func (g glob) matches(name string) bool {
	states := g.closure(make([]bool, len(g.atoms)+1), 0)
	for i := range len(name) {
		next, some := make([]bool, len(g.atoms)+1), false
		for s, on := range states[:len(g.atoms)] {
			if on && g.atoms[s].takes(name[i]) {
				some = true
				if g.atoms[s].star {
					g.closure(next, s)
				} else {
					g.closure(next, s+1)
				}
			}
		}
		if states = next; !some {
			return false
		}
	}
	return states[len(g.atoms)]
}

// closure adds state s and those that are reached from it without a byte.
func (g glob) closure(states []bool, s int) []bool {
	for states[s] = true; s < len(g.atoms) && g.atoms[s].star; {
		s++
		states[s] = true
	}
	return states
}
