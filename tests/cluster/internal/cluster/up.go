package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"time"

	"pullpass.dev/tests/cluster/internal/address"
	"pullpass.dev/tests/cluster/internal/artifact"
	"pullpass.dev/tests/cluster/internal/controlplane"
	"pullpass.dev/tests/cluster/internal/kubeapi"
	"pullpass.dev/tests/cluster/internal/machine"
	"pullpass.dev/tests/cluster/internal/network"
	"pullpass.dev/tests/cluster/internal/node"
	"pullpass.dev/tests/cluster/internal/process"
	"pullpass.dev/tests/cluster/internal/registry"
	"pullpass.dev/tests/cluster/internal/reservation"
)

// Options choose what a cluster consists of.
type Options struct {
	// APIOnly leaves out everything but etcd and the API server.
	APIOnly bool
	// Controllers adds the controller manager where APIOnly leaves it out.
	Controllers bool
	// Nodes is how many nodes there are to be; 0 is as many as there are, or
	// one in a new cluster.
	Nodes int
}

// Generous for a machine with two processors that does something else too.
const patience = 3 * time.Minute

// up is one run of Up.
type up struct {
	Cluster
	state      state
	plan       address.Plan
	kubernetes artifact.Kubernetes
	debian     artifact.Debian
	pause      artifact.Pause
	api        *kubeapi.Client
	parts      map[string]part
}

// Up makes sure that the cluster runs and is whole: it starts what does not
// run, and returns when all of it works. If it already does, nothing happens.
func (c Cluster) Up(ctx context.Context, options Options) error {
	lock, err := c.lock()
	if err != nil {
		return err
	}
	defer lock.Release()
	u := &up{Cluster: c, parts: map[string]part{}}
	if err := u.settleState(options); err != nil {
		return err
	}
	if err := u.settleNodes(ctx, options); err != nil {
		return err
	}
	if u.state.Configured && u.healthy(ctx) == nil {
		return nil
	}
	return u.bringUp(ctx)
}

// settleState finds out what is there, removes what an earlier boot has left,
// and reserves addresses and ports for a new cluster.
func (u *up) settleState(options Options) error {
	bootID, err := machine.BootID()
	if err != nil {
		return err
	}
	slot, reserved, err := reservation.Machine().Of(u.Layout.Dir)
	if err != nil {
		return err
	}
	found, exists, err := readState(u.Layout)
	switch {
	case err != nil:
		u.Say("%v: starting afresh", err)
		exists = false
	case exists && found.BootID != bootID:
		u.Say("the cluster's files are from before the machine was booted: starting afresh")
		exists = false
	case exists && (!reserved || found.Slot != slot):
		u.Say("the cluster's addresses are not reserved any more: starting afresh")
		exists = false
	}
	if exists && !found.APIOnly && found.Nodes == 0 {
		u.Say("the cluster was made by another version of this command: starting afresh")
		exists = false
	}
	if exists {
		if found.APIOnly != options.APIOnly {
			return fmt.Errorf("the cluster %s runs %s: take it down first, or choose another name", u.Layout.Name, kind(found))
		}
		if options.Controllers && !found.Controllers {
			found.Controllers = true
			if err := found.write(u.Layout); err != nil {
				return err
			}
		}
		u.state = found
		u.plan, err = address.ForSlot(slot)
		return err
	}
	if err := u.removeEverything(); err != nil {
		return err
	}
	u.plan, err = reservation.Machine().Reserve(u.Layout.Dir, !options.APIOnly)
	if err != nil {
		return err
	}
	nodes := 0
	if !options.APIOnly {
		nodes = max(options.Nodes, 1)
	}
	u.state = state{
		Nodes:       nodes,
		Slot:        u.plan.Slot,
		BootID:      bootID,
		APIOnly:     options.APIOnly,
		Controllers: options.Controllers || !options.APIOnly,
	}
	return u.state.write(u.Layout)
}

// settleNodes makes the cluster one of as many nodes as it is to have; those
// that are too many end at once, those that are missing start with the rest.
func (u *up) settleNodes(ctx context.Context, options Options) error {
	if options.APIOnly && options.Nodes > 0 {
		return errors.New("a cluster with an API server only has no nodes: leave out --nodes")
	}
	if options.Nodes > address.MaxNodes {
		return fmt.Errorf("a cluster has at most %d nodes", address.MaxNodes)
	}
	if options.Nodes == 0 || options.Nodes == u.state.Nodes {
		return nil
	}
	for index := u.state.Nodes; index > options.Nodes; index-- {
		if err := u.dismissNode(ctx, index); err != nil {
			return err
		}
	}
	u.state.Nodes = options.Nodes
	u.state.ConfiguredNodes = min(u.state.ConfiguredNodes, options.Nodes)
	return u.state.write(u.Layout)
}

// dismissNode ends a node, and has Kubernetes forget it and its pods.
func (u *up) dismissNode(ctx context.Context, index int) error {
	if err := u.removeNode(index); err != nil {
		return err
	}
	if err := os.RemoveAll(u.Layout.Node(node.Name(index))); err != nil {
		return err
	}
	for _, part := range nodeComponents(index) {
		if err := os.Remove(u.Layout.PIDFile(part.Name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := u.connect(); err != nil {
		return err
	}
	return u.api.Delete(ctx, "/api/v1/nodes/"+node.Name(index))
}

func kind(s state) string {
	if s.APIOnly {
		return "with an API server only"
	}
	return "with nodes"
}

// healthy returns nil if every part runs and answers.
func (u *up) healthy(ctx context.Context) error {
	for _, c := range components(u.state) {
		if _, ok, err := running(u.Layout, c); err != nil {
			return err
		} else if !ok {
			return fmt.Errorf("%s does not run", c.Name)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if err := u.connect(); err != nil {
		return err
	}
	for _, check := range u.checks(ctx) {
		if err := check.do(); err != nil {
			return fmt.Errorf("waiting for %s: %w", check.what, err)
		}
	}
	return nil
}

func (u *up) bringUp(ctx context.Context) error {
	start := time.Now()
	if err := u.prepare(); err != nil {
		return err
	}
	if !u.state.Configured {
		if err := u.configure(); err != nil {
			return err
		}
	}
	if u.state.ConfiguredNodes < u.state.Nodes {
		if err := u.configureNodes(); err != nil {
			return err
		}
	}
	if err := u.connect(); err != nil {
		return err
	}
	control := u.controlPlane(u.plan, u.kubernetes)
	if u.plan.HasLink() {
		// Some parts listen on the link.
		if err := network.EnsureBridge(u.plan); err != nil {
			return err
		}
	}
	if err := u.ensure(controlplane.Etcd, always(control.EtcdCommand())); err != nil {
		return err
	}
	if err := u.ensure(controlplane.APIServer, always(control.APIServerCommand())); err != nil {
		return err
	}
	// The API server takes seconds, in which the node can get ready.
	nodes, err := u.nodes()
	if err != nil {
		return err
	}
	if !u.state.APIOnly {
		if err := u.ensure(registry.Component, always(u.registry(u.plan, u.debian).Command())); err != nil {
			return err
		}
		for _, n := range nodes {
			if err := u.ensureNode(n); err != nil {
				return err
			}
		}
	}
	if err := u.awaitAPIServer(ctx); err != nil {
		return err
	}
	if u.state.Controllers {
		if err := u.ensure(controlplane.ControllerManager, always(control.ControllerManagerCommand())); err != nil {
			return err
		}
	}
	if !u.state.APIOnly {
		if err := u.ensure(controlplane.Scheduler, always(control.SchedulerCommand())); err != nil {
			return err
		}
		for _, n := range nodes {
			if err := u.ensureNodeDaemons(n); err != nil {
				return err
			}
		}
	}
	for _, check := range u.checks(ctx) {
		var parts []part
		for _, name := range check.parts {
			if p, started := u.parts[name]; started {
				parts = append(parts, p)
			}
		}
		if err := u.await(check.what, patience, parts, check.do); err != nil {
			return err
		}
	}
	u.Say("the cluster %s is up after %.1f s", u.Layout.Name, time.Since(start).Seconds())
	return nil
}

// prepare gets everything that the cluster is made of.
func (u *up) prepare() (err error) {
	if u.kubernetes, err = u.Source.Kubernetes(); err != nil || u.state.APIOnly {
		return err
	}
	if u.debian, err = u.Source.Debian(); err != nil {
		return err
	}
	u.pause, err = u.Source.Pause()
	return err
}

// configure writes certificates and configuration anew, from the beginning if
// that was interrupted.
func (u *up) configure() error {
	control := u.controlPlane(u.plan, u.kubernetes)
	if err := control.IssueCertificates(); err != nil {
		return err
	}
	if err := control.WriteConfig(); err != nil {
		return err
	}
	if err := u.writeKubectl(); err != nil {
		return err
	}
	if !u.state.APIOnly {
		if err := u.registry(u.plan, u.debian).Write(); err != nil {
			return err
		}
	}
	u.state.Configured, u.state.ConfiguredNodes = true, 0
	return u.state.write(u.Layout)
}

// configureNodes writes certificates and configuration of the nodes that have
// none yet, and leaves those of the others, which run with them.
func (u *up) configureNodes() error {
	authority, err := u.controlPlane(u.plan, u.kubernetes).Authority()
	if err != nil {
		return err
	}
	nodes, err := u.nodes()
	if err != nil {
		return err
	}
	for _, n := range nodes[u.state.ConfiguredNodes:] {
		if err := n.WriteConfig(authority); err != nil {
			return err
		}
	}
	u.state.ConfiguredNodes = u.state.Nodes
	return u.state.write(u.Layout)
}

// writeKubectl writes a kubectl that knows this cluster only, so that nobody
// works on another one by mistake.
func (u *up) writeKubectl() error {
	if err := os.MkdirAll(u.Layout.Bin(), 0o755); err != nil {
		return err
	}
	script := fmt.Sprintf("#!/bin/sh\nKUBECONFIG='%s' exec '%s' \"$@\"\n", u.Layout.Kubeconfig(), u.kubernetes.Kubectl)
	return os.WriteFile(u.Layout.Kubectl(), []byte(script), 0o755)
}

func (u *up) nodes() ([]node.Node, error) {
	if u.state.APIOnly {
		return nil, nil
	}
	mayLower, err := machine.MayLowerOOMScore()
	if err != nil {
		return nil, err
	}
	nsenter, err := exec.LookPath("nsenter")
	if err != nil {
		return nil, err
	}
	control, images := u.controlPlane(u.plan, u.kubernetes), u.registry(u.plan, u.debian)
	config := node.Config{
		Cluster:          u.Layout,
		Plan:             u.plan,
		APIServer:        control.ServerURL(),
		CA:               control.CA(),
		Registry:         node.Registry{Host: images.Host(), CA: images.CA()},
		Kubernetes:       u.kubernetes,
		Debian:           u.debian,
		Pause:            u.pause,
		Nsenter:          nsenter,
		RestrictOOMScore: !mayLower,
	}
	var nodes []node.Node
	for index := range u.state.Nodes {
		n, err := node.New(config, index+1)
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, n)
	}
	return nodes, nil
}

// ensure starts a component unless it runs.
func (u *up) ensure(name string, command func() (process.Command, error)) error {
	c, err := componentNamed(u.state, name)
	if err != nil {
		return err
	}
	p := part{name: name, logged: size(u.Layout.Log(name))}
	found, err := processesOf(u.Layout, c)
	if err != nil {
		return err
	}
	if len(found) == 1 {
		p.process = found[0]
		u.parts[name] = p
		return recordPID(u.Layout, c, p.process.PID)
	}
	if err := process.Kill(found); err != nil {
		return err
	}
	start, err := command()
	if err != nil {
		return err
	}
	p.started = time.Now()
	p.process, err = u.start(c, start)
	u.parts[name] = p
	return err
}

// ensureNode makes sure that the node's namespaces are there and joined to
// the machine, and that containerd serves in them.
func (u *up) ensureNode(n node.Node) error {
	err := u.ensure(n.Name(), func() (process.Command, error) {
		// What was in the namespaces has ended with their first process, but
		// not all that it has left outside.
		if err := u.removeNode(n.Index()); err != nil {
			return process.Command{}, err
		}
		return n.InitCommand()
	})
	if err != nil {
		return err
	}
	first := u.parts[n.Name()].process
	if err := network.EnsureNode(u.plan, n.Index(), first.PID); err != nil {
		return err
	}
	containerd := node.Containerd(n.Name())
	if err := u.ensure(containerd, always(n.ContainerdCommand(first))); err != nil {
		return err
	}
	err = u.await("containerd to answer", patience, []part{u.parts[containerd]}, func() error { return n.ContainerdAnswers(first) })
	if err != nil {
		return err
	}
	return n.LoadImage(first, u.pause.Archive)
}

func (u *up) ensureNodeDaemons(n node.Node) error {
	first := u.parts[n.Name()].process
	if err := u.ensure(node.Kubelet(n.Name()), always(n.KubeletCommand(first))); err != nil {
		return err
	}
	return u.ensure(node.Proxy(n.Name()), always(n.ProxyCommand(first)))
}

func always(command process.Command) func() (process.Command, error) {
	return func() (process.Command, error) { return command, nil }
}

func (u *up) connect() error {
	control := u.controlPlane(u.plan, u.kubernetes)
	api, err := kubeapi.New(control.ServerURL(), control.CA(), control.Administrator())
	u.api = api
	return err
}

func (u *up) awaitAPIServer(ctx context.Context) error {
	parts := []part{u.parts[controlplane.Etcd], u.parts[controlplane.APIServer]}
	return u.await("the API server to be ready", patience, parts, func() error { return u.api.Ready(ctx) })
}

// check is something that works in a cluster that is whole.
type check struct {
	what  string
	parts []string
	do    func() error
}

func (u *up) checks(ctx context.Context) []check {
	control := u.controlPlane(u.plan, u.kubernetes)
	list := []check{{
		"the API server to be ready", []string{controlplane.Etcd, controlplane.APIServer},
		func() error { return u.api.Ready(ctx) },
	}}
	if u.state.Controllers {
		list = append(list, check{
			"the controller manager to be healthy", []string{controlplane.ControllerManager},
			func() error { return u.healthOf(ctx, control.ControllerManagerURL()) },
		}, check{
			// Pods are refused until it is there.
			"the default service account", []string{controlplane.ControllerManager},
			func() error { return u.api.Exists(ctx, "/api/v1/namespaces/default/serviceaccounts/default") },
		})
	}
	if u.state.APIOnly {
		return list
	}
	list = append(list, check{
		"the scheduler to be healthy", []string{controlplane.Scheduler},
		func() error { return u.healthOf(ctx, control.SchedulerURL()) },
	}, check{
		"the registry to answer", []string{registry.Component},
		func() error { return u.registryRefusesStrangers(ctx) },
	})
	for index := range u.state.Nodes {
		name := node.Name(index + 1)
		// Zero if it ran before: then what it has once reported counts.
		since := u.parts[node.Kubelet(name)].started
		list = append(list, check{
			name + " to be ready", []string{name, node.Containerd(name), node.Kubelet(name)},
			func() error { return u.api.NodeReady(ctx, name, since) },
		}, check{
			"the Service of the API server to be reachable through " + name, []string{name, node.Proxy(name)},
			func() error { return u.kubernetesServiceReady(ctx) },
		})
	}
	return list
}

func (u *up) healthOf(ctx context.Context, url string) error {
	control := u.controlPlane(u.plan, u.kubernetes)
	client, err := kubeapi.New(url, control.CA(), control.Administrator())
	if err != nil {
		return err
	}
	return client.Healthy(ctx)
}

func (u *up) kubernetesServiceReady(ctx context.Context) error {
	control := u.controlPlane(u.plan, u.kubernetes)
	client, err := kubeapi.New("https://"+u.plan.KubernetesService.String(), control.CA(), control.Administrator())
	if err != nil {
		return err
	}
	return client.Ready(ctx)
}

func (u *up) registryRefusesStrangers(ctx context.Context) error {
	images := u.registry(u.plan, u.debian)
	return registry.RefusesStrangers(ctx, images.Host(), images.CA())
}
