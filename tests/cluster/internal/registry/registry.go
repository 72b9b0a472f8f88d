// Package registry configures the cluster's private registry: TLS under an
// authority of its own, and users with passwords.
package registry

import (
	"crypto/rand"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"

	"pullpass.dev/tests/cluster/internal/address"
	"pullpass.dev/tests/cluster/internal/layout"
	"pullpass.dev/tests/cluster/internal/pki"
	"pullpass.dev/tests/cluster/internal/process"
)

// Component is the registry's name among the cluster's components.
const Component = "registry"

// Config is what the registry of one cluster depends on.
type Config struct {
	Cluster layout.Cluster
	Plan    address.Plan
	// Binary is docker-registry.
	Binary string
}

// Host is the registry as an image names it: address and port.
func (c Config) Host() string {
	return netip.AddrPortFrom(c.Plan.Machine, uint16(c.Plan.RegistryPort)).String()
}

// CA is the file of the authority that signs the registry's certificate.
func (c Config) CA() string { return pki.In(c.Cluster.PKI(), "registry-ca").Cert }

// Users is the file of the users, in the format of Apache's htpasswd. The
// registry reads it again whenever it has changed.
func (c Config) Users() string { return filepath.Join(c.Cluster.Registry(), "htpasswd") }

func (c Config) configFile() string { return filepath.Join(c.Cluster.Registry(), "config.yml") }

// Write writes certificates, configuration, two users and registry.env.
func (c Config) Write() error {
	if err := os.MkdirAll(c.Cluster.Registry(), 0o700); err != nil {
		return err
	}
	authority, err := pki.NewAuthority("registry", pki.In(c.Cluster.PKI(), "registry-ca"))
	if err != nil {
		return err
	}
	pair := pki.In(c.Cluster.PKI(), "registry")
	if err := authority.Server(pair, nil, []netip.Addr{c.Plan.Machine}); err != nil {
		return err
	}
	config, err := c.render(pair, rand.Text())
	if err != nil {
		return err
	}
	if err := os.WriteFile(c.configFile(), config, 0o600); err != nil {
		return err
	}
	env := Env{Registry: c.Host(), CA: c.CA(), HTPasswd: c.Users()}
	for i, name := range []string{"puller", "other"} {
		env.Users[i] = User{Name: name, Password: rand.Text()}
		if err := SetPassword(c.Users(), env.Users[i]); err != nil {
			return err
		}
	}
	return env.Write(c.Cluster.RegistryEnv())
}

// JSON is YAML too. The format is that of distribution 2.8.
func (c Config) render(pair pki.Pair, secret string) ([]byte, error) {
	type object = map[string]any
	return json.MarshalIndent(object{
		"version": "0.1",
		"log":     object{"level": "info"},
		"storage": object{
			"filesystem":  object{"rootdirectory": filepath.Join(c.Cluster.Registry(), "data")},
			"delete":      object{"enabled": true},
			"maintenance": object{"uploadpurging": object{"enabled": false}},
		},
		"http": object{
			"addr":   c.Host(),
			"secret": secret,
			"tls":    object{"certificate": pair.Cert, "key": pair.Key},
		},
		"auth": object{"htpasswd": object{"realm": "pullpass local cluster", "path": c.Users()}},
	}, "", "  ")
}

// Command starts the registry.
func (c Config) Command() process.Command {
	return process.Command{
		Component: Component,
		Program:   "docker-registry",
		Path:      c.Binary,
		Args:      []string{"serve", c.configFile()},
		Log:       c.Cluster.Log(Component),
	}
}
