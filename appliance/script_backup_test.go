package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/rogpeppe/go-internal/testscript"
)

// member NAME FILE MEMBER puts a member of the JSON object in a file into a variable.
func member(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 3, "member NAME FILE MEMBER")
	data, err := os.ReadFile(ts.MkAbs(args[1]))
	ts.Check(err)
	var object map[string]any
	ts.Check(json.Unmarshal(data, &object))
	ts.Setenv(args[0], fmt.Sprint(object[args[2]]))
}
