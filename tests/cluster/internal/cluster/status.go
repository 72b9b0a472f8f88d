package cluster

import (
	"context"
	"path/filepath"

	"pullpass.dev/tests/cluster/internal/address"
	"pullpass.dev/tests/cluster/internal/artifact"
	"pullpass.dev/tests/cluster/internal/node"
	"pullpass.dev/tests/cluster/internal/process"
)

// Status is what is known about a cluster.
type Status struct {
	Name string `json:"name"`
	Dir  string `json:"dir"`
	// Exists is false if there is no such cluster; then nothing else is set.
	Exists bool `json:"exists"`
	// Healthy is true if every part runs and answers.
	Healthy    bool              `json:"healthy"`
	APIOnly    bool              `json:"apiOnly"`
	Kubeconfig string            `json:"kubeconfig,omitempty"`
	AuditLog   string            `json:"auditLog,omitempty"`
	APIServer  string            `json:"apiServer,omitempty"`
	Registry   string            `json:"registry,omitempty"`
	PodRange   string            `json:"podRange,omitempty"`
	Services   string            `json:"serviceRange,omitempty"`
	Components []ComponentStatus `json:"components,omitempty"`
	Nodes      []NodeStatus      `json:"nodes,omitempty"`
}

// ComponentStatus is one process of the cluster.
type ComponentStatus struct {
	Name string `json:"name"`
	// PID is 0 if it does not run.
	PID int    `json:"pid"`
	Log string `json:"log"`
}

// NodeStatus is one node of the cluster.
type NodeStatus struct {
	Name    string `json:"name"`
	Address string `json:"address"`
	// PID is that of the node's first process, by which its namespaces can
	// be entered, or 0 if it does not run.
	PID int `json:"pid"`
	// KubeletDir is where kubelet's directory is on the machine.
	KubeletDir string `json:"kubeletDir"`
}

// Status looks at a cluster without changing anything.
func (c Cluster) Status(ctx context.Context) (Status, error) {
	status := Status{Name: c.Layout.Name, Dir: c.Layout.Dir}
	found, exists, err := readState(c.Layout)
	if err != nil || !exists {
		return status, err
	}
	plan, err := address.ForSlot(found.Slot)
	if err != nil {
		return status, err
	}
	status.Exists = true
	status.APIOnly = found.APIOnly
	status.Kubeconfig = c.Layout.Kubeconfig()
	status.AuditLog = c.Layout.AuditLog()
	status.APIServer = c.controlPlane(plan, artifact.Kubernetes{}).ServerURL()
	processes, err := process.Of(c.Layout.Dir)
	if err != nil {
		return status, err
	}
	pids := map[string]int{}
	for _, part := range components(found) {
		for _, p := range process.Component(processes, part.Name, part.Program) {
			pids[part.Name] = p.PID
		}
		status.Components = append(status.Components, ComponentStatus{
			Name: part.Name, PID: pids[part.Name], Log: c.Layout.Log(part.Name),
		})
	}
	if !found.APIOnly {
		status.Registry = c.registry(plan, artifact.Debian{}).Host()
		status.PodRange, status.Services = plan.Pods.String(), plan.Services.String()
		for index := range found.Nodes {
			network, err := plan.Node(index + 1)
			if err != nil {
				return status, err
			}
			name := node.Name(index + 1)
			status.Nodes = append(status.Nodes, NodeStatus{
				Name: name, Address: network.Address.String(), PID: pids[name],
				KubeletDir: filepath.Join(c.Layout.Node(name), "kubelet"),
			})
		}
	}
	if !found.Configured {
		return status, nil
	}
	u := &up{Cluster: c, state: found, plan: plan}
	status.Healthy = u.healthy(ctx) == nil
	return status, nil
}
