// Package kubeconfig writes kubeconfig files.
package kubeconfig

import (
	"encoding/json"
	"os"

	"pullpass.dev/tests/cluster/internal/pki"
)

// Config says how a user reaches an API server.
type Config struct {
	// Name is how people see cluster and context.
	Name string
	// Server is the API server's URL.
	Server string
	// CA is the file with the authority that signed its certificate.
	CA string
	// User authenticates by this certificate.
	User string
	Pair pki.Pair
}

// Write writes the file for its owner only. Certificates and key are part of
// it, so that it can be copied and mounted anywhere.
func Write(path string, config Config) error {
	content, err := render(config)
	if err != nil {
		return err
	}
	return os.WriteFile(path, content, 0o600)
}

// JSON is YAML too, which is what readers of a kubeconfig expect.
func render(config Config) ([]byte, error) {
	ca, err := os.ReadFile(config.CA)
	if err != nil {
		return nil, err
	}
	cert, err := os.ReadFile(config.Pair.Cert)
	if err != nil {
		return nil, err
	}
	key, err := os.ReadFile(config.Pair.Key)
	if err != nil {
		return nil, err
	}
	type object = map[string]any
	rendered, err := json.MarshalIndent(object{
		"apiVersion": "v1",
		"kind":       "Config",
		"clusters": []object{{
			"name":    config.Name,
			"cluster": object{"server": config.Server, "certificate-authority-data": ca},
		}},
		"users": []object{{
			"name": config.User,
			"user": object{"client-certificate-data": cert, "client-key-data": key},
		}},
		"contexts": []object{{
			"name":    config.Name,
			"context": object{"cluster": config.Name, "user": config.User},
		}},
		"current-context": config.Name,
	}, "", "  ")
	return append(rendered, '\n'), err
}
