// Package cluster brings a local Kubernetes cluster up, keeps it whole, and
// takes it down without a trace.
package cluster

import (
	"crypto/sha256"
	"fmt"
	"path/filepath"

	"pullpass.dev/tests/cluster/internal/address"
	"pullpass.dev/tests/cluster/internal/artifact"
	"pullpass.dev/tests/cluster/internal/controlplane"
	"pullpass.dev/tests/cluster/internal/filelock"
	"pullpass.dev/tests/cluster/internal/layout"
	"pullpass.dev/tests/cluster/internal/registry"
	"pullpass.dev/tests/cluster/internal/reservation"
)

// Cluster is one cluster of a checkout, running or not.
type Cluster struct {
	Layout layout.Cluster
	// Source provides what it is made of.
	Source artifact.Source
	// Say tells a person what is going on.
	Say func(format string, args ...any)
}

// lock makes sure that only one command changes a cluster at a time.
func (c Cluster) lock() (*filelock.Lock, error) {
	// Not in the cluster's own directory, which comes and goes.
	path := filepath.Join(reservation.RuntimeDir, fmt.Sprintf("cluster-%x.lock", sha256.Sum256([]byte(c.Layout.Dir))))
	return filelock.Acquire(path, func() {
		c.Say("another command works on the cluster %s, waiting for it", c.Layout.Name)
	})
}

func (c Cluster) controlPlane(plan address.Plan, kubernetes artifact.Kubernetes) controlplane.Config {
	return controlplane.Config{Cluster: c.Layout, Plan: plan, Binary: kubernetes.Binary}
}

func (c Cluster) registry(plan address.Plan, debian artifact.Debian) registry.Config {
	return registry.Config{Cluster: c.Layout, Plan: plan, Binary: debian.Program("docker-registry")}
}

// existing is the state of a cluster that has been brought up.
func (c Cluster) existing() (state, error) {
	found, exists, err := readState(c.Layout)
	if err == nil && !exists {
		err = fmt.Errorf("there is no cluster %s: start it with `%s`", c.Layout.Name, upCommand(c.Layout))
	}
	return found, err
}

func upCommand(cluster layout.Cluster) string {
	command := "tests/cluster/cluster up"
	if cluster.Name != layout.DefaultName {
		command += " --name " + cluster.Name
	}
	return command
}

// Kubeconfig is the path of the administrator's kubeconfig.
func (c Cluster) Kubeconfig() (string, error) {
	_, err := c.existing()
	return c.Layout.Kubeconfig(), err
}
