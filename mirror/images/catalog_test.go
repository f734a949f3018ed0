package images

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
)

// shelves is a registry that lists what it is told to.
func shelves(t *testing.T, answers map[string]string, links map[string]string) *Source {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path == "/v2/" {
			return
		}
		answer, ok := answers[q.URL.RequestURI()]
		if !ok {
			http.NotFound(w, q)
			return
		}
		if link := links[q.URL.RequestURI()]; link != "" {
			w.Header().Set("Link", fmt.Sprintf(`<%s>; rel="next"`, link))
		}
		fmt.Fprint(w, answer)
	}))
	t.Cleanup(server.Close)
	s, err := OpenRegistry(Access{Host: strings.TrimPrefix(server.URL, "http://")})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestCatalog(t *testing.T) {
	all := map[string]string{
		"/v2/_catalog?n=1000":               `{"repositories":["team/web"]}`,
		"/v2/_catalog?n=1000&last=team%2Fw": `{"repositories":["team/db","gone","teams/x"]}`,
		"/v2/team/web/tags/list?n=1000":     `{"name":"team/web","tags":["2","1","sha256-` + strings.Repeat("a", 64) + `.sig","sha256-` + strings.Repeat("b", 64) + `"]}`,
		"/v2/team/db/tags/list?n=1000":      `{"name":"team/db","tags":null}`,
		"/v2/teams/x/tags/list?n=1000":      `{"name":"teams/x","tags":["v1"]}`,
	}
	next := map[string]string{"/v2/_catalog?n=1000": "/v2/_catalog?n=1000&last=team%2Fw"}
	s := shelves(t, all, next)
	for below, want := range map[string][]string{"": {"team/web:1", "team/web:2", "teams/x:v1"}, "team": {"team/web:1", "team/web:2"}, "team/": {"team/web:1", "team/web:2"}, "team/web": {"team/web:1", "team/web:2"}, "te": nil} {
		refs, err := s.Catalog(context.Background(), below)
		var got []string
		for _, r := range refs {
			got = append(got, strings.TrimPrefix(r.String(), s.Hosts()[0]+"/"))
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("below %q: %v %v, want %v", below, got, err, want)
		}
	}
}

// TestCatalogRefuses: a registry that leads elsewhere, for ever, or in no form of a list is refused.
func TestCatalogRefuses(t *testing.T) {
	const first = "/v2/_catalog?n=1000"
	for name, c := range map[string]struct {
		answer, link string
		want         error
	}{
		"another host":     {`{"repositories":["a"]}`, "http://elsewhere.internal/v2/_catalog", ErrAnswer},
		"another list":     {`{"repositories":["a"]}`, "/v2/a/tags/list", ErrAnswer},
		"no list":          {`{"repositories":{"a":1}}`, "", ErrAnswer},
		"no names":         {`{"repositories":[1]}`, "", ErrAnswer},
		"twice":            {`{"repositories":[],"repositories":["a"]}`, "", ErrAnswer},
		"the same page":    {`{"repositories":["a"` + strings.Repeat(`,"a"`, 9999) + `]}`, first, ErrLimit},
		"no such name":     {`{"repositories":["../a"]}`, "", nil},
		"too long to hold": {`{"repositories":["` + strings.Repeat("a", MaxManifest) + `"]}`, "", ErrLimit},
	} {
		t.Run(name, func(t *testing.T) {
			s := shelves(t, map[string]string{first: c.answer}, map[string]string{first: c.link})
			refs, err := s.Catalog(context.Background(), "")
			if c.want == nil && len(refs) == 0 { // there is nothing of that name
				return
			}
			if !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
		})
	}
	layout := &Source{}
	if _, err := layout.Catalog(context.Background(), ""); !errors.Is(err, ErrReference) {
		t.Errorf("a layout: %v", err)
	}
}
