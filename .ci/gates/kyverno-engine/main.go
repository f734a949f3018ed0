// Command kyverno-engine decides about a pod with an image as Kyverno's admission controller does: its engine verifies the image in the registry, then
// validates, and what the policy enforces blocks.
//
//	kyverno-engine CLUSTERPOLICY IMAGE
//
// It prints "admitted" or "denied: WHY" and exits 0 or 1; 2 says that the policy could not be read.
package main

import (
	"context"
	"fmt"
	"os"

	jsonpatch "github.com/evanphx/json-patch/v5"
	"github.com/go-logr/logr"
	v1 "github.com/kyverno/kyverno/api/kyverno/v1"
	"github.com/kyverno/kyverno/pkg/config"
	"github.com/kyverno/kyverno/pkg/engine"
	"github.com/kyverno/kyverno/pkg/engine/adapters"
	"github.com/kyverno/kyverno/pkg/engine/api"
	"github.com/kyverno/kyverno/pkg/engine/factories"
	"github.com/kyverno/kyverno/pkg/engine/jmespath"
	"github.com/kyverno/kyverno/pkg/engine/mutate/patch"
	"github.com/kyverno/kyverno/pkg/engine/policycontext"
	"github.com/kyverno/kyverno/pkg/image/verification/cache"
	utils "github.com/kyverno/kyverno/pkg/utils/engine"
	jsonutils "github.com/kyverno/kyverno/pkg/utils/json"
	"github.com/kyverno/sdk/extensions/registryclient"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/yaml"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: kyverno-engine CLUSTERPOLICY IMAGE")
		os.Exit(2)
	}
	ctrl.SetLogger(logr.Discard())
	data, err := os.ReadFile(os.Args[1])
	var policy v1.ClusterPolicy
	if err == nil {
		err = yaml.UnmarshalStrict(data, &policy)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	if err := decide(&policy, os.Args[2]); err != nil {
		fmt.Println("denied:", err)
		os.Exit(1)
	}
	fmt.Println("admitted")
}

func decide(policy *v1.ClusterPolicy, image string) error {
	ctx, known, inCluster := context.Background(), config.NewDefaultConfiguration(false), false
	query := jmespath.New(known)
	registry := factories.DefaultRegistryClientFactory(adapters.RegistryClient(registryclient.New()), nil)
	kyverno := engine.NewEngine(known, query, nil, registry, cache.DisabledImageVerifyCache(), factories.DefaultContextLoaderFactory(nil), nil, &inCluster)
	resource := pod(image)
	asked, err := policycontext.NewPolicyContext(query, resource, v1.Create, nil, known)
	if err != nil {
		return err
	}
	asked = asked.WithPolicy(policy).WithResourceKind(resource.GroupVersionKind(), "")
	verified, images := kyverno.VerifyAndPatchImages(ctx, asked)
	if resource, err = noted(verified.PatchedResource, images); err != nil {
		return err
	}
	for _, response := range []api.EngineResponse{verified, kyverno.Validate(ctx, asked.WithNewResource(resource))} {
		if utils.BlockRequest(response, policy.Spec.GetFailurePolicy(ctx)) {
			return fmt.Errorf("%v", response.GetFailedRulesWithErrors())
		}
	}
	return nil
}

// noted is the pod with the annotation by which the second webhook knows which images the first verified.
func noted(resource unstructured.Unstructured, images api.ImageVerificationMetadata) (unstructured.Unstructured, error) {
	if images.IsEmpty() {
		return resource, nil
	}
	operations, err := images.Patches(false, logr.Discard())
	if err != nil {
		return resource, err
	}
	decoded, err := jsonpatch.DecodePatch(jsonutils.JoinPatches(patch.ConvertPatches(operations...)...))
	if err != nil {
		return resource, err
	}
	data, err := resource.MarshalJSON()
	if err == nil {
		data, err = decoded.Apply(data)
	}
	if err == nil {
		err = resource.UnmarshalJSON(data)
	}
	return resource, err
}

func pod(image string) unstructured.Unstructured {
	return unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{"name": "asked", "namespace": "default"},
		"spec": map[string]any{"containers": []any{map[string]any{"name": "c", "image": image}}},
	}}
}
