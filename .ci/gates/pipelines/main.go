// Command pipelines holds examples of pipelines to the types of those who run them, read strictly, and to their own validation: Tekton's as its admission
// webhook does it, that of Argo Workflows as `argo lint --offline` does. Of Kubernetes' own kinds it checks the types alone.
//
//	pipelines FILE...
//
// It prints what is wrong and exits 1.
package main

import (
	"context"
	"fmt"
	"os"

	argo "github.com/argoproj/argo-workflows/v3/pkg/apis/workflow/v1alpha1"
	"github.com/argoproj/argo-workflows/v3/workflow/validate"
	tekton "github.com/tektoncd/pipeline/pkg/apis/pipeline/v1"
	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: pipelines FILE...")
		os.Exit(2)
	}
	failed := false
	for _, file := range os.Args[1:] {
		if err := check(context.Background(), file); err != nil {
			fmt.Printf("%s: %s\n", file, err)
			failed = true
		}
	}
	fmt.Printf("%d files checked\n", len(os.Args)-1)
	if failed {
		os.Exit(1)
	}
}

func check(ctx context.Context, file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var head struct{ APIVersion, Kind string }
	if err := yaml.Unmarshal(data, &head); err != nil {
		return err
	}
	switch head.APIVersion + " " + head.Kind {
	case "tekton.dev/v1 Task":
		var task tekton.Task
		if err := yaml.UnmarshalStrict(data, &task); err != nil {
			return err
		}
		task.SetDefaults(ctx)
		if err := task.Validate(ctx); err != nil {
			return err
		}
		return nil
	case "argoproj.io/v1alpha1 Workflow":
		var workflow argo.Workflow
		if err := yaml.UnmarshalStrict(data, &workflow); err != nil {
			return err
		}
		return validate.ValidateWorkflow(nil, nil, &workflow, nil, validate.ValidateOpts{Lint: true})
	case "batch/v1 Job":
		return yaml.UnmarshalStrict(data, &batch.Job{})
	case "v1 ConfigMap":
		return yaml.UnmarshalStrict(data, &core.ConfigMap{})
	}
	return fmt.Errorf("nobody here knows %s %s", head.APIVersion, head.Kind)
}
