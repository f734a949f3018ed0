package main

import (
	"crypto/fips140"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"redoubt.internal/appliance/verifying"
	"redoubt.internal/mirror"
)

// The scripts in testdata/script are the operator's view: each runs this test binary as `redoubt`, in its own directory.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == workerVerb || os.Args[1] == surveyVerb) { // started by a test of this binary, as the child that holds a token or looks for one
		main()
	}
	atPoint = dieAt(os.Getenv(dieAtVariable))
	clock = laterBy(os.Getenv(clockVariable))
	verifying.Now = clock
	workFactor = 10 // a passphrase is derived in a hundredth of the time, in each of some thousand runs of the binary
	mirror.FirstPause = 10 * time.Millisecond
	if filepath.Base(os.Args[0]) != "redoubt" { // scripts wait for disks and servers more than they compute
		flag.Parse()
		flag.Set("test.parallel", strconv.Itoa(max(3*runtime.GOMAXPROCS(0), flag.Lookup("test.parallel").Value.(flag.Getter).Get().(int))))
	}
	testscript.Main(m, map[string]func(){"redoubt": checked})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		Cmds:                scriptCommands,
		RequireExplicitExec: true,
		Condition: func(name string) (bool, error) {
			switch name {
			case "fips":
				return fips140.Enforced(), nil
			case "root":
				return os.Geteuid() == 0, nil
			}
			return false, fmt.Errorf("no condition %q", name)
		},
		Setup: func(env *testscript.Env) error { // scripts run in the cryptographic mode of the test
			env.Setenv("GODEBUG", os.Getenv("GODEBUG"))
			here, err := os.Getwd()
			if err != nil {
				return err
			}
			env.Setenv("HERE", here) // the test data of packages
			// In the strict FIPS 140-3 mode a TPM is refused otherwise, as tpm.txtar shows.
			env.Setenv("REDOUBT_TPM_PLAIN_SESSIONS", strconv.FormatBool(fips140.Enforced()))
			return nil
		},
	})
}
