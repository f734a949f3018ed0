// Command gatekeeper-ratify decides whether an image may run as Gatekeeper and Ratify do in a cluster: Ratify's controllers read its objects, its server
// answers about the image in the registry, and Gatekeeper's tester, gator, asks it about a pod by the template and the constraint.
//
//	gatekeeper-ratify FOLDER IMAGE
//
// It prints "admitted" or "denied: WHY" and exits 0 or 1; 2 says that an object could not be read.
package main

import (
	"context"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"

	"github.com/open-policy-agent/frameworks/constraint/pkg/apis/externaldata/unversioned"
	constraints "github.com/open-policy-agent/frameworks/constraint/pkg/client"
	"github.com/open-policy-agent/frameworks/constraint/pkg/client/drivers/rego"
	"github.com/open-policy-agent/frameworks/constraint/pkg/externaldata"
	"github.com/open-policy-agent/gatekeeper/v3/pkg/gator/reader"
	gator "github.com/open-policy-agent/gatekeeper/v3/pkg/gator/test"
	"github.com/ratify-project/ratify/api/v1beta1"
	"github.com/ratify-project/ratify/httpserver"
	"github.com/ratify-project/ratify/pkg/controllers"
	"github.com/ratify-project/ratify/pkg/controllers/clusterresource"
	"github.com/ratify-project/ratify/pkg/executor/core"
	_ "github.com/ratify-project/ratify/pkg/policyprovider/configpolicy"
	_ "github.com/ratify-project/ratify/pkg/referrerstore/oras"
	_ "github.com/ratify-project/ratify/pkg/verifier/cosign"
	"github.com/sirupsen/logrus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
)

const ratifyGroup = "config.ratify.deislabs.io"

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: gatekeeper-ratify FOLDER IMAGE")
		os.Exit(2)
	}
	logrus.SetOutput(io.Discard)
	why, err := decide(os.Args[1], os.Args[2])
	switch {
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	case len(why) > 0:
		fmt.Println("denied:", strings.Join(why, "; "))
		os.Exit(1)
	}
	fmt.Println("admitted")
}

func decide(dir, image string) (why []string, err error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil {
		return nil, err
	}
	objects, err := reader.ReadSources(files, nil, "")
	if err != nil {
		return nil, err
	}
	asked := []*unstructured.Unstructured{pod(image)}
	for _, o := range objects {
		if o.GroupVersionKind().Group != ratifyGroup {
			asked = append(asked, o)
		} else if err := reconcile(o); err != nil {
			return nil, fmt.Errorf("%s %s: %w", o.GetKind(), o.GetName(), err)
		}
	}
	provider, stop, err := ratify()
	if err != nil {
		return nil, err
	}
	defer stop()
	answers, err := gator.Test(asked, func() ([]constraints.Opt, []rego.Arg, error) {
		return nil, []rego.Arg{rego.AddExternalDataProviderCache(provider)}, nil
	})
	if err != nil {
		return nil, err
	}
	for _, r := range answers.Results() {
		if r.EnforcementAction == "deny" { // what else there is only warns
			why = append(why, r.Msg)
		}
	}
	return why, nil
}

func pod(image string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{"name": "asked", "namespace": "default"},
		"spec": map[string]any{"containers": []any{map[string]any{"name": "c", "image": image}}},
	}}
}

// reconcile has Ratify's controller of a kind take an object, in place of an API server, with every field one that Ratify knows.
func reconcile(o *unstructured.Unstructured) error {
	scheme := runtime.NewScheme()
	if err := v1beta1.AddToScheme(scheme); err != nil {
		return err
	}
	typed, err := scheme.New(o.GroupVersionKind())
	if err != nil {
		return err
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(o.Object, typed, true); err != nil {
		return err
	}
	server := fake.NewClientBuilder().WithScheme(scheme).WithObjects(typed.(client.Object)).WithStatusSubresource(typed.(client.Object)).Build()
	controller := map[string]interface {
		Reconcile(context.Context, ctrl.Request) (ctrl.Result, error)
	}{
		"KeyManagementProvider": &clusterresource.KeyManagementProviderReconciler{Client: server, Scheme: scheme},
		"Store":                 &clusterresource.StoreReconciler{Client: server, Scheme: scheme},
		"Verifier":              &clusterresource.VerifierReconciler{Client: server, Scheme: scheme},
		"Policy":                &clusterresource.PolicyReconciler{Client: server, Scheme: scheme},
	}[o.GetKind()]
	if controller == nil {
		return fmt.Errorf("no controller is for it")
	}
	ctx := context.Background()
	if _, err := controller.Reconcile(ctx, ctrl.Request{NamespacedName: client.ObjectKeyFromObject(o)}); err != nil {
		return err
	}
	after := &unstructured.Unstructured{}
	after.SetGroupVersionKind(o.GroupVersionKind())
	if err := server.Get(ctx, client.ObjectKeyFromObject(o), after); err != nil {
		return err
	}
	if ok, _, err := unstructured.NestedBool(after.Object, "status", "issuccess"); err != nil || !ok {
		return fmt.Errorf("its status is %v", after.Object["status"])
	}
	return nil
}

// ratify serves what its controllers made, and is the provider that Ratify's own chart names.
func ratify() (*externaldata.ProviderCache, func(), error) {
	server, err := httpserver.NewServer(context.Background(), "unused", func(context.Context) *core.Executor {
		return &core.Executor{
			Verifiers:      controllers.NamespacedVerifiers.GetVerifiers(""),
			ReferrerStores: controllers.NamespacedStores.GetStores(""),
			PolicyEnforcer: controllers.NamespacedPolicies.GetPolicy(""),
		}
	}, "", "", 0, false, "", 0)
	if err != nil {
		return nil, nil, err
	}
	listening := httptest.NewTLSServer(server.Router)
	known := externaldata.NewCache()
	err = known.Upsert(&unversioned.Provider{
		ObjectMeta: metav1.ObjectMeta{Name: "ratify-provider"},
		Spec: unversioned.ProviderSpec{
			URL:      listening.URL + httpserver.ServerRootURL + "/verify",
			Timeout:  7,
			CABundle: base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: listening.Certificate().Raw})),
		},
	})
	return known, listening.Close, err
}
