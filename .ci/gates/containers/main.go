// Command containers decides whether an image may run as podman, CRI-O and skopeo do: by the policy evaluation of their own library.
//
//	containers POLICY.JSON REGISTRIES.D IMAGE
//
// It prints "accepted" or "rejected: WHY" and exits 0 or 1; 2 says that the policy could not be read.
package main

import (
	"context"
	"fmt"
	"os"

	"go.podman.io/image/v5/docker"
	"go.podman.io/image/v5/image"
	"go.podman.io/image/v5/signature"
	"go.podman.io/image/v5/types"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: containers POLICY.JSON REGISTRIES.D IMAGE")
		os.Exit(2)
	}
	p, err := signature.NewPolicyFromFile(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "policy:", err)
		os.Exit(2)
	}
	if err := allowed(p, os.Args[2], os.Args[3]); err != nil {
		fmt.Println("rejected:", err)
		os.Exit(1)
	}
	fmt.Println("accepted")
}

func allowed(p *signature.Policy, registries, name string) error {
	ctx := context.Background()
	ref, err := docker.ParseReference("//" + name)
	if err != nil {
		return err
	}
	nothing, err := os.MkdirTemp("", "containers-") // in place of this machine's own settings
	if err != nil {
		return err
	}
	defer os.RemoveAll(nothing)
	sys := &types.SystemContext{RegistriesDirPath: registries, SystemRegistriesConfPath: os.DevNull, SystemRegistriesConfDirPath: nothing, DockerInsecureSkipTLSVerify: types.OptionalBoolTrue}
	source, err := ref.NewImageSource(ctx, sys)
	if err != nil {
		return err
	}
	defer source.Close()
	evaluation, err := signature.NewPolicyContext(p)
	if err != nil {
		return err
	}
	defer evaluation.Destroy() //nolint:errcheck // nothing was written
	_, err = evaluation.IsRunningImageAllowed(ctx, image.UnparsedInstance(source, nil))
	return err
}
