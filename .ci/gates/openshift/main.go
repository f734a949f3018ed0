// Command openshift lays onto a node what OpenShift's machine-config-operator makes of ClusterImagePolicies and of the cluster's Image: policy.json and
// registries.d, as podman and CRI-O read them.
//
//	openshift TEMPLATES OUT FILE...
//
// TEMPLATES are the operator's own; OUT is the node's /etc/containers. The version of the operator reads ClusterImagePolicies as v1alpha1, of which v1 is the same
// fields: each of them must be one that it knows.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	configv1 "github.com/openshift/api/config/v1"
	"github.com/openshift/api/config/v1alpha1"
	"github.com/openshift/api/features"
	machinev1 "github.com/openshift/api/machineconfiguration/v1"
	"github.com/openshift/library-go/pkg/operator/configobserver/featuregates"
	"github.com/openshift/machine-config-operator/pkg/controller/common"
	runtimeconfig "github.com/openshift/machine-config-operator/pkg/controller/container-runtime-config"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

const onNodes = "/etc/containers/"

func main() {
	if len(os.Args) < 4 {
		fmt.Fprintln(os.Stderr, "usage: openshift TEMPLATES OUT FILE...")
		os.Exit(2)
	}
	if err := lay(os.Args[1], os.Args[2], os.Args[3:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func lay(templates, out string, files []string) error {
	image, policies, err := read(files)
	if err != nil {
		return err
	}
	cluster := &machinev1.ControllerConfig{Spec: machinev1.ControllerConfigSpec{
		ReleaseImage: "quay.corp.internal/openshift/release:4",
		Infra: &configv1.Infrastructure{Status: configv1.InfrastructureStatus{
			APIServerURL:         "https://api.corp.internal:6443",
			APIServerInternalURL: "https://api-int.corp.internal:6443",
			PlatformStatus:       &configv1.PlatformStatus{Type: configv1.NonePlatformType},
		}},
	}}
	workers := []*machinev1.MachineConfigPool{{ObjectMeta: metav1.ObjectMeta{Name: "worker"}}}
	gates := featuregates.NewHardcodedFeatureGateAccess([]configv1.FeatureGateName{features.FeatureGateSigstoreImageVerification}, nil)
	configs, err := runtimeconfig.RunImageBootstrap(templates, cluster, workers, nil, nil, nil, image, policies, nil, gates)
	if err != nil {
		return err
	}
	for _, c := range configs {
		if err := write(out, c); err != nil {
			return err
		}
	}
	return nil
}

func read(files []string) (image *configv1.Image, policies []*v1alpha1.ClusterImagePolicy, err error) {
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, nil, err
		}
		var kind metav1.TypeMeta
		if err := yaml.Unmarshal(data, &kind); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", file, err)
		}
		var into any
		switch kind.APIVersion + " " + kind.Kind {
		case "config.openshift.io/v1 Image":
			image = &configv1.Image{}
			into = image
		case "config.openshift.io/v1 ClusterImagePolicy":
			policies = append(policies, &v1alpha1.ClusterImagePolicy{})
			into = policies[len(policies)-1]
		default:
			err = errors.New("nothing that nodes are told by")
		}
		if err == nil {
			err = yaml.UnmarshalStrict(data, into)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", file, err)
		}
	}
	return image, policies, nil
}

// write writes the files of a MachineConfig that stand in /etc/containers.
func write(out string, config *machinev1.MachineConfig) error {
	ignition, err := common.ParseAndConvertConfig(config.Spec.Config.Raw)
	if err != nil {
		return err
	}
	for _, f := range ignition.Storage.Files {
		name, ok := strings.CutPrefix(f.Path, onNodes)
		if !ok {
			continue
		}
		data, err := common.DecodeIgnitionFileContents(f.Contents.Source, f.Contents.Compression)
		if err != nil {
			return err
		}
		path := filepath.Join(out, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			return err
		}
	}
	return nil
}
