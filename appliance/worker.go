package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/hsm"
	"redoubt.internal/hsm/worker"
)

const workerVerb = "hsm-worker"

// defaultSignTimeout bounds one signature of a served key, opening its token included.
const defaultSignTimeout = 2 * time.Second

// processEnv are the variables a child gets besides those its module needs: Go's own, systemd's credentials, what the dynamic
// linker and modules look for files by.
var processEnv = []string{"GODEBUG", "GOMAXPROCS", "GOCOVERDIR", "CREDENTIALS_DIRECTORY", "HOME", "LD_LIBRARY_PATH"}

// workerSettings is the configuration that crosses the pipe: one kind of token.
type workerSettings struct {
	PKCS11 *pkcs11Settings `json:"pkcs11,omitempty"`
}

// openWorker starts this program again as a child that holds the token, and does not wait for it: whoever needs a key does, and
// has the errors of opening.
func openWorker(s workerSettings, cfg Keys, env []string, logger *slog.Logger) (hsm.Token, error) {
	config, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encoding the worker's configuration: %w", err)
	}
	t, err := worker.Start(worker.Config{
		Path: "/proc/self/exe", Args: []string{os.Args[0], workerVerb}, Config: config, Env: append(env[:len(env):len(env)], processEnv...),
		Timeout: cfg.Timeout.or(defaultSignTimeout), Logger: logger,
	})
	if err != nil {
		return nil, err
	}
	return t, nil
}

// workerCommand is the child's side of openWorker. It is not for people: without its pipe it refuses to run.
func workerCommand() *cli.Command {
	return &cli.Command{
		Name: workerVerb, Hidden: true, Usage: "hold a token for the process that started this one",
		Action: func(c *cli.Context) error {
			conn, err := worker.ChildConn()
			if err != nil {
				return cmdline.Usage("%v", err)
			}
			logger := slog.New(slog.NewTextHandler(c.App.ErrWriter, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
				if a.Key == slog.TimeKey {
					return slog.Attr{} // the parent's logger has it
				}
				return a
			}}))
			// A service that is told to stop still signs; the end of the pipe ends its worker.
			return worker.Serve(context.WithoutCancel(c.Context), conn, conn, func(ctx context.Context, config []byte) (hsm.Token, error) {
				s, err := parseWorkerSettings(config)
				if err != nil {
					return nil, err
				}
				return openSettings(ctx, s, logger)
			})
		},
	}
}

func parseWorkerSettings(config []byte) (s workerSettings, err error) {
	d := json.NewDecoder(bytes.NewReader(config))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return s, fmt.Errorf("reading the worker's configuration: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return s, errors.New("reading the worker's configuration: data after its end")
	}
	return s, nil
}

func orDefaultList(list, def []string) []string {
	if len(list) > 0 {
		return list
	}
	return def
}
