package policy

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// severities from the least to the worst.
var severities = []string{"none", "low", "medium", "high", "critical"}

// finding is one vulnerability of a scan.
type finding struct {
	id       string
	severity int // index into severities; what is not known is the worst
}

// check reads vulnerability scans: in-toto's, and cosign's around what Trivy and Grype write.
func (v Vulnerabilities) check() (check, error) {
	worst := v.MaxSeverity
	if worst == "" {
		worst = "none"
	}
	if err := oneOf(worst, severities...); err != nil {
		return nil, fmt.Errorf("max-severity: %w", err)
	}
	most := slices.Index(severities, worst)
	return func(_ context.Context, q question) string {
		if why := q.tooOld("scanned", text(q.predicate, "metadata", "scanFinishedOn"), v.MaxAge); why != "" {
			return why
		}
		found, ok := findings(q.predicate)
		if !ok {
			return "its scanner's result has a form that is not read here; ask by cel"
		}
		var over []string
		for _, f := range found {
			if f.severity > most && !slices.Contains(v.Ignore, f.id) {
				over = append(over, fmt.Sprintf("%.60q (%s)", f.id, severities[f.severity]))
			}
		}
		if len(over) > 0 {
			return fmt.Sprintf("%d vulnerabilities worse than %s: %s", len(over), worst, strings.Join(over[:min(len(over), 5)], ", "))
		}
		return ""
	}, nil
}

// findings reads a scanner's result in one of three forms.
func findings(v any) (found []finding, ok bool) {
	switch result := at(v, "scanner", "result").(type) {
	case []any: // in-toto
		for _, r := range result {
			worst := 0
			scores := list(r, "severity")
			for _, s := range scores {
				worst = max(worst, severityOf(at(s, "score")))
			}
			if len(scores) == 0 {
				worst = len(severities) - 1
			}
			found = append(found, finding{text(r, "id"), worst})
		}
		return found, true
	case map[string]any:
		matches, grype := result["matches"].([]any)
		for _, m := range matches {
			found = append(found, finding{text(m, "vulnerability", "id"), severityOf(at(m, "vulnerability", "severity"))})
		}
		targets, trivy := result["Results"].([]any)
		for _, t := range targets {
			for _, r := range list(t, "Vulnerabilities") {
				found = append(found, finding{text(r, "VulnerabilityID"), severityOf(at(r, "Severity"))})
			}
		}
		return found, grype != trivy
	}
	return nil, false
}

// severityOf reads a word, or a CVSS score by the bounds of CVSS v3.1 section 5.
func severityOf(v any) int {
	if s, ok := v.(string); ok {
		word := strings.ToLower(s)
		if i := slices.Index(severities, word); i >= 0 {
			return i
		}
		if word == "negligible" || word == "informational" {
			return 1
		}
		n, err := strconv.ParseFloat(s, 64)
		if err != nil {
			return len(severities) - 1
		}
		v = n
	}
	n, ok := v.(float64)
	switch {
	case !ok || !(0 <= n && n < 9): // NaN is in no range
		return 4
	case n >= 7:
		return 3
	case n >= 4:
		return 2
	case n > 0:
		return 1
	}
	return 0
}
