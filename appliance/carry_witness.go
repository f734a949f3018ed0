package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"redoubt.internal/mirror"
)

// maxPolicyFile bounds what is read of a witness policy.
const maxPolicyFile = 256 << 10

// policies gives each configured log its witness policy: the text itself, or the text of the file it names.
func (m Mirror) policies(dir layout, logs []mirror.LogConfig) error {
	for _, l := range m.Logs {
		if l.WitnessPolicy == "" {
			continue
		}
		text, err := witnessPolicy(dir, l.WitnessPolicy)
		if err == nil {
			_, err = mirror.ParsePolicy([]byte(text))
		}
		if err != nil {
			return fmt.Errorf("mirror.logs: %s: witness-policy: %w", l.Origin, err)
		}
		for i := range logs {
			if logs[i].Origin == l.Origin {
				logs[i].Witnesses = text
			}
		}
	}
	return nil
}

// witnessPolicy is the policy a line of the configuration gives: a file has no line break in its name, a policy has.
func witnessPolicy(dir layout, given string) (string, error) {
	if strings.Contains(given, "\n") {
		return given, nil
	}
	f, err := os.Open(dir.resolve(given))
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxPolicyFile+1))
	return string(text), err
}
