package admission

import (
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"go.yaml.in/yaml/v3"
)

// kubeconfig is what of kubectl's configuration (client-go, clientcmd/api/v1) is read here. What else it may hold is left alone, but for what would
// run a program or check no certificate.
type kubeconfig struct {
	Current  string `yaml:"current-context"`
	Contexts []struct {
		Name    string `yaml:"name"`
		Context struct {
			Cluster string `yaml:"cluster"`
			User    string `yaml:"user"`
		} `yaml:"context"`
	} `yaml:"contexts"`
	Clusters []struct {
		Name    string `yaml:"name"`
		Cluster struct {
			Server   string `yaml:"server"`
			CAFile   string `yaml:"certificate-authority"`
			CA       string `yaml:"certificate-authority-data"`
			Insecure bool   `yaml:"insecure-skip-tls-verify"`
		} `yaml:"cluster"`
	} `yaml:"clusters"`
	Users []struct {
		Name string `yaml:"name"`
		User struct {
			Token           string    `yaml:"token"`
			TokenFile       string    `yaml:"tokenFile"`
			CertificateFile string    `yaml:"client-certificate"`
			Certificate     string    `yaml:"client-certificate-data"`
			KeyFile         string    `yaml:"client-key"`
			Key             string    `yaml:"client-key-data"`
			Exec            yaml.Node `yaml:"exec"`
			Provider        yaml.Node `yaml:"auth-provider"`
		} `yaml:"user"`
	} `yaml:"users"`
}

const maxKubeconfig = 1 << 20

// Kubeconfig is how the current context of a kubectl configuration reaches its API server. Files it names stand relative to it.
func Kubeconfig(file string) (c Cluster, err error) {
	bad := func(format string, a ...any) (Cluster, error) {
		return Cluster{}, fmt.Errorf("%w: %s: %w", ErrConfig, file, fmt.Errorf(format, a...))
	}
	f, err := os.Open(file)
	if err != nil {
		return bad("%w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxKubeconfig+1))
	if err != nil || len(text) > maxKubeconfig {
		return bad("at most %d bytes are read: %v", maxKubeconfig, err)
	}
	var k kubeconfig
	if err := yaml.Unmarshal(text, &k); err != nil {
		return bad("%w", err)
	}
	cluster, user, known := "", "", false
	for _, context := range k.Contexts {
		if context.Name == k.Current {
			cluster, user, known = context.Context.Cluster, context.Context.User, true
		}
	}
	if !known {
		return bad("it has no context %.100q, which it says is the current one", k.Current)
	}
	beside := func(path string) string {
		if path == "" || filepath.IsAbs(path) {
			return path
		}
		return filepath.Join(filepath.Dir(file), path)
	}
	for _, one := range k.Clusters {
		if one.Name != cluster {
			continue
		}
		if one.Cluster.Insecure {
			return bad("cluster %.100q checks no certificate", cluster)
		}
		c.URL, c.CAFile = one.Cluster.Server, beside(one.Cluster.CAFile)
		if one.Cluster.CA != "" {
			if c.CA, err = base64.StdEncoding.DecodeString(one.Cluster.CA); err != nil {
				return bad("certificate-authority-data: %w", err)
			}
		}
	}
	for _, one := range k.Users {
		if one.Name != user {
			continue
		}
		u := one.User
		if !u.Exec.IsZero() || !u.Provider.IsZero() {
			return bad("user %.100q gets its credentials from a program; give a token, a tokenFile or a client certificate", user)
		}
		c.Token, c.TokenFile = u.Token, beside(u.TokenFile)
		if u.Certificate+u.CertificateFile == "" {
			continue
		}
		certificate, err := dataOrFile(u.Certificate, beside(u.CertificateFile))
		if err != nil {
			return bad("client-certificate: %w", err)
		}
		key, err := dataOrFile(u.Key, beside(u.KeyFile))
		if err != nil {
			return bad("client-key: %w", err)
		}
		pair, err := tls.X509KeyPair(certificate, key)
		if err != nil {
			return bad("client-certificate: %w", err)
		}
		c.Client = &pair
	}
	return c, nil
}

func dataOrFile(data, file string) ([]byte, error) {
	if data != "" {
		return base64.StdEncoding.DecodeString(data)
	}
	return os.ReadFile(file)
}
