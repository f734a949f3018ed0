package main

import (
	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/appliance/verifying"
)

// commands is the command table: one constructor per verb, each in its own verb_X.go.
func commands() []*cli.Command {
	return cmdline.Uniform([]*cli.Command{
		demoCommand(), initCommand(), serveCommand(), rolesCommand(), statusCommand(), doctorCommand(),
		identityCommand(), clientCommand(), signCommand(), attestFileCommand(), verifying.Command(verifying.Appliance{StateDir: configuredDir, Receipt: leaveReceipt}), policyCommand(), admissionCommand(), inventoryCommand(),
		keysCommand(), ceremonyCommand(), caCommand(), tsaCommand(), logCommand(), auditCommand(), trustCommand(), tlsCommand(), mirrorCommand(), approveCommand(), backupCommand(), standbyCommand(), stateCommand(), preflightCommand(), upgradeCommand(), uninstallCommand(),
		bundleCommand(), configCommand(), docsCommand(), completionCommand(), versionCommand(), workerCommand(), surveyCommand(),
	})
}
