package policy

import (
	"embed"
	"fmt"
	"slices"
	"strings"

	"redoubt.internal/log/strictyaml"
)

//go:embed templates/*.yaml
var templates embed.FS

// Templates are the names that Template takes.
func Templates() (names []string, err error) {
	files, err := templates.ReadDir("templates")
	for _, f := range files {
		names = append(names, strings.TrimSuffix(f.Name(), ".yaml"))
	}
	return names, err
}

// Template is a policy to begin with. What stands in it in capitals is the site's to say.
func Template(name string) ([]byte, error) {
	names, err := Templates()
	if err != nil {
		return nil, err
	}
	if !slices.Contains(names, name) {
		return nil, fmt.Errorf("there is no template %q%s; there are %s", name, strictyaml.Nearest(name, slices.Values(names)), strings.Join(names, ", "))
	}
	return templates.ReadFile("templates/" + name + ".yaml")
}
