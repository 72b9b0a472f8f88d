package cluster

import (
	"errors"
	"path/filepath"
	"strings"
	"time"

	"pullpass.dev/tests/cluster/internal/address"
	"pullpass.dev/tests/cluster/internal/cgroup"
	"pullpass.dev/tests/cluster/internal/layout"
	"pullpass.dev/tests/cluster/internal/machine"
	"pullpass.dev/tests/cluster/internal/network"
	"pullpass.dev/tests/cluster/internal/node"
	"pullpass.dev/tests/cluster/internal/process"
	"pullpass.dev/tests/cluster/internal/reservation"
)

// Down ends the cluster and removes everything of it, whatever state it is
// in. There need not be one.
func (c Cluster) Down() error {
	lock, err := c.lock()
	if err != nil {
		return err
	}
	if err := c.removeEverything(); err != nil {
		lock.Release()
		return err
	}
	if err := lock.Remove(); err != nil {
		return err
	}
	return reservation.Machine().Tidy()
}

// removeEverything leaves no process, interface, control group or file.
func (c Cluster) removeEverything() error {
	if err := c.killAll(); err != nil {
		return err
	}
	plan, found, err := c.ownPlan()
	if err != nil {
		return err
	}
	if found {
		if err := network.Remove(plan); err != nil {
			return err
		}
		for index := range address.MaxNodes {
			if err := removeControlGroup(plan, index+1); err != nil {
				return err
			}
		}
	}
	if err := c.Layout.Remove(); err != nil {
		return err
	}
	if found {
		return reservation.Machine().Release(plan.Slot)
	}
	return nil
}

// killAll looks again after each round, for those that were just being
// started when it looked before.
func (c Cluster) killAll() error {
	for deadline := time.Now().Add(time.Minute); ; {
		processes, err := process.Of(c.Layout.Dir)
		if err != nil || len(processes) == 0 {
			return err
		}
		if err := process.Kill(processes); err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return errors.New("somebody keeps starting processes of this cluster: end that first")
		}
	}
}

// ownPlan is the plan of the slot that is surely the cluster's own: another
// cluster may have got the one that the files of an earlier boot name.
func (c Cluster) ownPlan() (address.Plan, bool, error) {
	slot, reserved, err := reservation.Machine().Of(c.Layout.Dir)
	if err != nil {
		return address.Plan{}, false, err
	}
	if !reserved {
		slot, reserved, err = c.unreservedSlot()
		if err != nil || !reserved {
			return address.Plan{}, false, err
		}
	}
	plan, err := address.ForSlot(slot)
	return plan, err == nil, err
}

// unreservedSlot is the slot of a cluster whose reservation was lost although
// the machine was not booted.
func (c Cluster) unreservedSlot() (int, bool, error) {
	found, exists, err := readState(c.Layout)
	if err != nil || !exists {
		// Files that cannot be read are removed all the same.
		return 0, false, nil
	}
	bootID, err := machine.BootID()
	if err != nil || found.BootID != bootID {
		return 0, false, err
	}
	taken, err := reservation.Machine().Taken(found.Slot)
	return found.Slot, !taken, err
}

// removeNode ends a node, or what is left of one.
func (c Cluster) removeNode(index int) error {
	processes, err := process.Of(c.Layout.Dir)
	if err != nil {
		return err
	}
	var own []process.Process
	for _, p := range processes {
		if name := node.Name(index); p.Component == name || strings.HasPrefix(p.Component, name+"-") {
			own = append(own, p)
		}
	}
	if err := process.Kill(own); err != nil {
		return err
	}
	plan, found, err := c.ownPlan()
	if err != nil || !found {
		return err
	}
	if err := network.RemoveNode(plan, index); err != nil {
		return err
	}
	return removeControlGroup(plan, index)
}

func removeControlGroup(plan address.Plan, index int) error {
	hierarchies, err := cgroup.Hierarchies()
	if err != nil {
		return err
	}
	return cgroup.Remove(hierarchies, node.ControlGroup(plan, index))
}

// OfCheckout finds every cluster of a checkout of which there is anything:
// files, a reservation, or processes.
func OfCheckout(checkout string) ([]layout.Cluster, error) {
	clusters, err := layout.Existing(checkout)
	if err != nil {
		return nil, err
	}
	known := map[string]bool{}
	for _, c := range clusters {
		known[c.Dir] = true
	}
	dirs, err := reservation.Machine().Clusters()
	if err != nil {
		return nil, err
	}
	processes, err := process.List()
	if err != nil {
		return nil, err
	}
	for _, p := range processes {
		dirs = append(dirs, p.ClusterDir)
	}
	root := layout.Root(checkout)
	for _, dir := range dirs {
		name := ""
		switch {
		case known[dir]:
			continue
		case dir == root:
		case filepath.Dir(dir) == root:
			name = filepath.Base(dir)
		default:
			continue
		}
		c, err := layout.Named(checkout, name)
		if err != nil {
			return nil, err
		}
		known[dir] = true
		clusters = append(clusters, c)
	}
	return clusters, nil
}
