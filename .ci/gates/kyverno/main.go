// Command kyverno holds ClusterPolicies to Kyverno's own types and their validation, as its admission controller does first.
//
//	kyverno FILE...
//
// It prints what is wrong, warnings included, and exits 1.
package main

import (
	"fmt"
	"os"

	v1 "github.com/kyverno/kyverno/api/kyverno/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"sigs.k8s.io/yaml"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: kyverno FILE...")
		os.Exit(2)
	}
	failed := false
	for _, file := range os.Args[1:] {
		for _, problem := range check(file) {
			fmt.Printf("%s: %s\n", file, problem)
			failed = true
		}
	}
	fmt.Printf("%d policies checked\n", len(os.Args)-1)
	if failed {
		os.Exit(1)
	}
}

func check(file string) (problems []string) {
	data, err := os.ReadFile(file)
	if err != nil {
		return []string{err.Error()}
	}
	var policy v1.ClusterPolicy
	if err := yaml.UnmarshalStrict(data, &policy); err != nil {
		return []string{err.Error()}
	}
	warnings, errs := policy.Validate(sets.New[string]())
	for _, e := range errs {
		problems = append(problems, e.Error())
	}
	return append(problems, warnings...)
}
