package cluster

import (
	"context"
	"time"

	"pullpass.dev/tests/cluster/internal/process"
)

// Restart ends one component, as an administrator would, and starts it again.
// To restart a node is to end everything in it.
func (c Cluster) Restart(ctx context.Context, name string) error {
	found, err := c.existing()
	if err != nil {
		return err
	}
	if err := c.stopComponent(found, name); err != nil {
		return err
	}
	return c.Up(ctx, Options{APIOnly: found.APIOnly, Controllers: found.Controllers, Nodes: found.Nodes})
}

func (c Cluster) stopComponent(s state, name string) error {
	lock, err := c.lock()
	if err != nil {
		return err
	}
	defer lock.Release()
	wanted, err := componentNamed(s, name)
	if err != nil {
		return err
	}
	processes, err := process.Of(c.Layout.Dir)
	if err != nil {
		return err
	}
	return process.Stop(process.Component(processes, wanted.Name, wanted.Program), 5*time.Second)
}
