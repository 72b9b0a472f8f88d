package cluster

import (
	"fmt"

	"pullpass.dev/tests/cluster/internal/address"
	"pullpass.dev/tests/cluster/internal/node"
	"pullpass.dev/tests/cluster/internal/process"
)

// LoadImages loads OCI archives into every node of a running cluster.
func (c Cluster) LoadImages(archives []string) error {
	found, err := c.existing()
	if err != nil {
		return err
	}
	if found.APIOnly {
		return fmt.Errorf("the cluster %s runs with an API server only: there is no node to load images into", c.Layout.Name)
	}
	plan, err := address.ForSlot(found.Slot)
	if err != nil {
		return err
	}
	u := &up{Cluster: c, state: found, plan: plan}
	if u.debian, err = c.Source.Debian(); err != nil {
		return err
	}
	nodes, err := u.nodes()
	if err != nil {
		return err
	}
	for _, n := range nodes {
		first, ok, err := running(c.Layout, component{Name: n.Name(), Program: node.InitProgram})
		if err != nil {
			return err
		}
		if !ok {
			return fmt.Errorf("%s does not run: start it with `%s`", n.Name(), upCommand(c.Layout))
		}
		if err := loadInto(n, first, archives); err != nil {
			return err
		}
	}
	return nil
}

func loadInto(n node.Node, first process.Process, archives []string) error {
	for _, archive := range archives {
		if err := n.LoadImage(first, archive); err != nil {
			return fmt.Errorf("load %s: %w", archive, err)
		}
	}
	return nil
}
