package verifying

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/counting"
	"redoubt.internal/appliance/policy"
	"redoubt.internal/appliance/verify"
)

func metricsFlag() cli.Flag {
	return &cli.StringFlag{Name: "metrics", Usage: "count the verdict in this file, for Prometheus' collector of text files (*.prom)", EnvVars: []string{"REDOUBT_METRICS"}}
}

// countVerdict counts one verdict where --metrics says. What cannot be counted changes no verdict.
func countVerdict(c *cli.Context, result, reason string) {
	path := c.String("metrics")
	if path == "" {
		return
	}
	if err := counting.Verdict(path, result, reason); err != nil {
		fmt.Fprintf(c.App.ErrWriter, "not counted in %s: %v\n", path, err)
	}
}

func countDecision(c *cli.Context, d policy.Decision) {
	result, reason := counting.DecisionLabels(d)
	countVerdict(c, result, reason)
}

func acceptedBy(r *verify.Result) string {
	if r.Key() != "" {
		return counting.ByKey
	}
	return counting.ByIdentity
}
