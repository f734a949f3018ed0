package main

import (
	"embed"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"

	"github.com/urfave/cli/v2"
	"go.yaml.in/yaml/v3"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/ca/identity"
	"redoubt.internal/log/strictyaml"
	"redoubt.internal/mirror"
)

//go:embed config*.go
var configSource embed.FS

func configCommand() *cli.Command {
	return &cli.Command{
		Name: "config", Usage: "check, print or describe the configuration",
		Subcommands: []*cli.Command{
			configReloadCommand(),
			{Name: "validate", Usage: "check the configuration and say where it is wrong", ArgsUsage: "[FILE]", Flags: append(cmdline.StateFlags(), cmdline.OutputFlag()), Action: configValidate},
			{Name: "show", Usage: "print the configuration as it was understood", Flags: append(cmdline.StateFlags(), cmdline.OutputFlag()), Action: configShow},
			{Name: "schema", Usage: "print the JSON Schema of the configuration", Action: configSchema},
		},
	}
}

func configValidate(c *cli.Context) error {
	path := c.Args().First()
	if path == "" {
		path = cmdline.ConfigPath(c)
	}
	result := configVerdict{File: path}
	cfg, err := loadConfig(path)
	if err == nil {
		result.Dir = cfg.Dir
		err = cfg.checkRooms()
	}
	if err == nil {
		_, _, err = cfg.inForce() // with the keys rotated since
	}
	if err == nil {
		result.Valid = true
		return cmdline.PrintResult(c, result, func(w io.Writer) { fmt.Fprintf(w, "%s: valid\n", path) })
	}
	result.Reason = err.Error()
	if c.String("output") == "json" {
		if err := cmdline.PrintJSON(c, result); err != nil {
			return err
		}
	}
	return err
}

// configVerdict is the JSON of `redoubt config validate -o json`, of files that are valid and of others.
type configVerdict struct {
	File   string `json:"file"`
	Valid  bool   `json:"valid"`
	Dir    string `json:"dir,omitempty"`
	Reason string `json:"reason,omitempty"` // why it is not valid
}

// checkRooms asks the rooms what serve would ask them: issuers with their pinned keys, the logs to carry, the timestamp policy.
func (c *Config) checkRooms() error {
	var problems []error
	issuers := identity.Config{OIDCIssuers: c.OIDCIssuers, MetaIssuers: c.MetaIssuers, CIIssuerMetadata: c.CIIssuerMetadata, Dir: c.Dir}
	if _, err := identity.New(issuers); err != nil {
		problems = append(problems, err)
	}
	if logs, err := c.Mirror.logs(); err != nil {
		problems = append(problems, err)
	} else if err := c.Mirror.policies(layout{c.Dir}, logs); err != nil {
		problems = append(problems, err)
	}
	if err := mirror.CheckWatches(c.Mirror.watch()); err != nil {
		problems = append(problems, fmt.Errorf("mirror.watch: %w", err))
	}
	if _, err := parseOID(c.TSA.Policy); err != nil {
		problems = append(problems, fmt.Errorf("tsa.policy: %w", err))
	}
	if len(problems) > 0 {
		return fmt.Errorf("%w: %w", errConfig, errors.Join(problems...))
	}
	return nil
}

func configShow(c *cli.Context) error {
	cfg, _, err := configured(c)
	if err != nil {
		return err
	}
	text, err := yamlText(cfg)
	if err != nil {
		return err
	}
	var plain map[string]any
	if err := yaml.Unmarshal(text, &plain); err != nil {
		return fmt.Errorf("encoding the configuration: %w", err)
	}
	return cmdline.PrintResult(c, plain, func(w io.Writer) { w.Write(text) })
}

func configSchema(c *cli.Context) error {
	docs, err := configDocs()
	if err != nil {
		return err
	}
	schema := strictyaml.Schema(reflect.TypeFor[Config](), docs)
	schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	schema["title"] = "redoubt.yaml"
	return cmdline.PrintJSON(c, schema)
}

// configDocs reads the comments of config.go and of config_*.go.
func configDocs() (map[string]string, error) { return strictyaml.Docs(configSource) }

// configManual is `redoubt docs config`: every key with its comment, indented as it stands in the file.
func configManual(w io.Writer) error {
	docs, err := configDocs()
	if err != nil {
		return err
	}
	manualOf(w, reflect.TypeFor[Config](), docs, "")
	return nil
}

func manualOf(w io.Writer, t reflect.Type, docs map[string]string, indent string) {
	for f := range t.Fields() {
		name, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		inner := f.Type
		for inner.Kind() == reflect.Pointer || inner.Kind() == reflect.Slice || inner.Kind() == reflect.Map {
			inner = inner.Elem()
		}
		switch {
		case strings.Contains(options, "inline"):
			manualOf(w, inner, docs, indent)
			continue
		case name == "" || name == "-":
			continue
		}
		fmt.Fprintf(w, "%s%s:  # %s\n", indent, name, docs[t.Name()+"."+f.Name])
		if inner.Kind() == reflect.Struct {
			manualOf(w, inner, docs, indent+"  ")
		}
	}
}
