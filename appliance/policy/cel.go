package policy

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
)

// Bounds of an expression.
const (
	maxCEL  = 8 << 10   // bytes
	maxCost = 2_000_000 // of one evaluation, in cel-go's units: about one per step
)

// celVariables are what an expression sees.
var celVariables = []cel.EnvOption{
	cel.Variable("predicate", cel.DynType),                                  // of the attestation, as JSON: numbers are doubles
	cel.Variable("predicateType", cel.StringType),                           // its type
	cel.Variable("signer", cel.MapType(cel.StringType, cel.StringType)),     // identity, issuer, root, key
	cel.Variable("extensions", cel.MapType(cel.StringType, cel.StringType)), // Fulcio's, of the signer's certificate
	cel.Variable("artifact", cel.MapType(cel.StringType, cel.StringType)),   // kind, name, digest
	cel.Variable("signed", cel.TimestampType),                               // the earliest signed time
	cel.Variable("now", cel.TimestampType),                                  // when it is judged
}

// compileCEL is the check that an expression makes. It must be true; what cannot be evaluated, or costs too much, is not.
func compileCEL(text string) (check, error) {
	if text == "" || len(text) > maxCEL {
		return nil, fmt.Errorf("an expression of 1 to %d bytes is needed", maxCEL)
	}
	env, err := cel.NewEnv(append([]cel.EnvOption{cel.CrossTypeNumericComparisons(true), cel.ParserRecursionLimit(100), cel.ParserExpressionSizeLimit(maxCEL)}, celVariables...)...)
	if err != nil {
		return nil, err
	}
	ast, issues := env.Compile(text)
	if issues.Err() != nil {
		return nil, errors.New(oneLine(issues.Err().Error()))
	}
	if t := ast.OutputType(); !t.IsEquivalentType(cel.BoolType) && !t.IsEquivalentType(cel.DynType) {
		return nil, fmt.Errorf("it yields %s, true or false is needed", t)
	}
	program, err := env.Program(ast, cel.CostLimit(maxCost), cel.InterruptCheckFrequency(100), cel.EvalOptions(cel.OptOptimize))
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, q question) string {
		out, _, err := program.ContextEval(ctx, q.variables())
		if err != nil {
			return fmt.Sprintf("%s: %v", oneLine(text), oneLine(err.Error()))
		}
		if out != types.True {
			return fmt.Sprintf("it is not so that %s", oneLine(text))
		}
		return ""
	}, nil
}

func (q question) variables() map[string]any {
	r := q.fact.result
	san, issuer := r.Signer()
	extensions := r.Extensions()
	if extensions == nil {
		extensions = map[string]string{}
	}
	signed := q.fact.signed
	if signed.IsZero() {
		signed = time.Unix(0, 0)
	}
	return map[string]any{
		"predicate": q.predicate, "predicateType": r.PredicateType(),
		"signer":     map[string]string{"identity": san, "issuer": issuer, "root": r.Root(), "key": r.Key()},
		"extensions": extensions,
		"artifact":   map[string]string{"kind": string(q.artifact.Kind), "name": q.artifact.Name, "digest": q.artifact.Digest},
		"signed":     signed, "now": q.p.now(),
	}
}
