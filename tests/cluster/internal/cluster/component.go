package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"pullpass.dev/tests/cluster/internal/controlplane"
	"pullpass.dev/tests/cluster/internal/layout"
	"pullpass.dev/tests/cluster/internal/node"
	"pullpass.dev/tests/cluster/internal/process"
	"pullpass.dev/tests/cluster/internal/registry"
)

// component is a part of a cluster that is one process.
type component struct {
	Name string
	// Program is what the process is called once it runs.
	Program string
}

// components lists the parts of a cluster in the order in which they start.
func components(s state) []component {
	list := []component{
		{controlplane.Etcd, controlplane.Etcd},
		{controlplane.APIServer, controlplane.APIServer},
	}
	if s.Controllers {
		list = append(list, component{controlplane.ControllerManager, controlplane.ControllerManager})
	}
	if s.APIOnly {
		return list
	}
	list = append(list,
		component{controlplane.Scheduler, controlplane.Scheduler},
		component{registry.Component, "docker-registry"},
	)
	for index := range s.Nodes {
		list = append(list, nodeComponents(index+1)...)
	}
	return list
}

func nodeComponents(index int) []component {
	name := node.Name(index)
	return []component{
		{name, node.InitProgram},
		{node.Containerd(name), "containerd"},
		{node.Kubelet(name), "kubelet"},
		{node.Proxy(name), "kube-proxy"},
	}
}

func componentNamed(s state, name string) (component, error) {
	var known []string
	for _, c := range components(s) {
		if c.Name == name {
			return c, nil
		}
		known = append(known, c.Name)
	}
	return component{}, fmt.Errorf("the cluster has no component %q, only %s", name, strings.Join(known, ", "))
}

// running returns the process of a component. There is more than one where a
// start was interrupted and repeated; which of them the other parts talk to is
// unknown, so that counts as not running.
func running(cluster layout.Cluster, c component) (process.Process, bool, error) {
	found, err := processesOf(cluster, c)
	if err != nil || len(found) != 1 {
		return process.Process{}, false, err
	}
	return found[0], true, nil
}

func processesOf(cluster layout.Cluster, c component) ([]process.Process, error) {
	processes, err := process.Of(cluster.Dir)
	return process.Component(processes, c.Name, c.Program), err
}

// start starts a component and waits until its program runs, which in a node
// is a moment later than the process that enters it.
func (u *up) start(c component, command process.Command) (process.Process, error) {
	command.Component = c.Name
	log := u.Layout.Log(c.Name)
	logged := size(log)
	pid, err := process.Start(u.Layout.Dir, command)
	if err != nil {
		return process.Process{}, err
	}
	var found process.Process
	err = u.await(c.Name+" to start", 20*time.Second, nil, func() error {
		var ok bool
		var err error
		if found, ok, err = running(u.Layout, c); err != nil {
			return stop{err}
		}
		if ok {
			return nil
		}
		if _, err := os.Stat(filepath.Join("/proc", strconv.Itoa(pid))); errors.Is(err, fs.ErrNotExist) {
			return stop{fmt.Errorf("%s ended at once:\n%s\nThe whole log is %s", c.Name, tail(log, logged), log)}
		}
		return errors.New("its process is not there yet")
	})
	if err != nil {
		return process.Process{}, err
	}
	return found, recordPID(u.Layout, c, found.PID)
}

func recordPID(cluster layout.Cluster, c component, pid int) error {
	path := cluster.PIDFile(c.Name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(strconv.Itoa(pid)+"\n"), 0o644)
}

func size(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}

// tail returns the last lines that were written to a file since it had a size.
func tail(path string, since int64) string {
	const most, lines = 16 << 10, 12
	file, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer file.Close()
	from := max(since, size(path)-most)
	content := make([]byte, most)
	n, _ := file.ReadAt(content, from)
	all := strings.Split(strings.TrimSpace(string(content[:n])), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
