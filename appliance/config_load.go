package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/log/strictyaml"
)

var errConfig = errors.New("the configuration is not valid")

// loadConfig reads, decodes and checks the file at path. The error names the file, and the line where there is one.
func loadConfig(path string) (*Config, error) {
	data, err := readConfigFile(path)
	if err != nil {
		return nil, err
	}
	return configOf(path, data)
}

// readConfigFile reads the file at path, as far as it may be long.
func readConfigFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, cmdline.Hinted(fmt.Errorf("reading the configuration: %w", err), "`redoubt init --dir DIR --domain D` writes one; --config or $REDOUBT_CONFIG names another")
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, strictyaml.MaxBytes+1))
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	return data, nil
}

// configOf decodes and checks what the file at path holds.
func configOf(path string, data []byte) (*Config, error) {
	cfg, err := parseConfig(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if cfg.Dir == "" {
		// /etc/redoubt/redoubt.yaml may be a link into the state directory.
		real, err := filepath.EvalSymlinks(path)
		if err != nil {
			return nil, fmt.Errorf("reading the configuration: %w", err)
		}
		if cfg.Dir, err = filepath.Abs(filepath.Dir(real)); err != nil {
			return nil, err
		}
	}
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return cfg, nil
}

func parseConfig(data []byte) (*Config, error) { return decodeYAML[Config](data) }

// decodeYAML decodes one strict YAML document: unknown keys, duplicate keys and further documents are errors.
func decodeYAML[T any](data []byte) (*T, error) {
	out, err := strictyaml.Decode[T](data)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errConfig, err)
	}
	return out, nil
}
