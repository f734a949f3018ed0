package main

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// stamp STATUS asks the timestamp authority of state for a timestamp and prints the answer.
func stamp(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 1, "stamp STATUS")
	address, ok := readyFile(ts, "state")["tsa"].(string)
	if !ok {
		ts.Fatalf("no timestamp authority in the ready file")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	request := `{"artifactHash":"` + strings.Repeat("A", 43) + `=","hashAlgorithm":"sha256","certificates":true}`
	response, err := http.Post(address, "application/json", strings.NewReader(request))
	ts.Check(err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	ts.Check(err)
	if response.StatusCode != want {
		ts.Fatalf("%s, want %d: %q", response.Status, want, body)
	}
	_, err = fmt.Fprintf(ts.Stdout(), "%s", body)
	ts.Check(err)
}
