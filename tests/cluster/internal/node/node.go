// Package node runs a Kubernetes node in namespaces of its own on the machine:
// containerd, kubelet and kube-proxy under one first process, whose end is
// the end of everything in the node.
package node

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"pullpass.dev/tests/cluster/internal/address"
	"pullpass.dev/tests/cluster/internal/artifact"
	"pullpass.dev/tests/cluster/internal/cgroup"
	"pullpass.dev/tests/cluster/internal/layout"
	"pullpass.dev/tests/cluster/internal/process"
)

// providersDir is where the node has its credential providers. As on a node of
// a cloud, one is there already; it is a stand-in.
const providersDir = "/etc/kubernetes/credential-providers"

const containerdSocket = "/run/containerd/containerd.sock"

// Config is what all nodes of a cluster have in common.
type Config struct {
	Cluster layout.Cluster
	Plan    address.Plan
	// APIServer is the URL of the API server, CA the file of its authority.
	APIServer, CA string
	// Registry is one that the node trusts.
	Registry   Registry
	Kubernetes artifact.Kubernetes
	Debian     artifact.Debian
	Pause      artifact.Pause
	// Nsenter is the program that enters the node's namespaces.
	Nsenter string
	// RestrictOOMScore is set where the machine does not allow protecting
	// processes from the out-of-memory killer.
	RestrictOOMScore bool
}

// Registry is a registry under an authority of its own.
type Registry struct{ Host, CA string }

// Node is one node.
type Node struct {
	Config
	index   int
	network address.Node
	dir     string
}

// New returns the node with that index, the first being 1.
func New(config Config, index int) (Node, error) {
	network, err := config.Plan.Node(index)
	if err != nil {
		return Node{}, err
	}
	node := Node{Config: config, index: index, network: network}
	node.dir = config.Cluster.Node(node.Name())
	return node, nil
}

// Name is the name of a node in Kubernetes, and that of its first process
// among the cluster's components.
func Name(index int) string { return "node-" + strconv.Itoa(index) }

// Containerd, Kubelet and Proxy are the names of a node's daemons among the
// cluster's components.
func Containerd(node string) string { return node + "-containerd" }

// Kubelet is to kubelet what Containerd is to containerd.
func Kubelet(node string) string { return node + "-kubelet" }

// Proxy is to kube-proxy what Containerd is to containerd.
func Proxy(node string) string { return node + "-kube-proxy" }

// Name is the node's name in Kubernetes.
func (n Node) Name() string { return Name(n.index) }

// Index counts from 1.
func (n Node) Index() int { return n.index }

// Address is the node's address on the link.
func (n Node) Address() string { return n.network.Address.String() }

// The following are for the templates of configuration files.

// ContainerdSocket is the path inside the node.
func (n Node) ContainerdSocket() string { return containerdSocket }

// PauseImage holds a pod's namespaces.
func (n Node) PauseImage() string { return artifact.PauseImage }

// CNIPlugins is the directory of the plugins.
func (n Node) CNIPlugins() string { return n.Debian.CNIPlugins() }

// ControlGroup is the name of the group that holds everything of the node.
func (n Node) ControlGroup() string { return ControlGroup(n.Plan, n.index) }

// ControlGroup is the name of the group of a node, which follows from the
// plan so that it can be removed when everything else is lost.
func ControlGroup(plan address.Plan, index int) string {
	return fmt.Sprintf("pullpass-cluster-%d-node-%d", plan.Slot, index)
}

// InitProgram is the program of the node's first process.
const InitProgram = "pause"

// InitCommand starts the node's first process.
func (n Node) InitCommand() (process.Command, error) {
	hierarchies, err := cgroup.Hierarchies()
	if err != nil {
		return process.Command{}, err
	}
	if err := cgroup.Create(hierarchies, n.ControlGroup()); err != nil {
		return process.Command{}, err
	}
	var list strings.Builder
	for _, hierarchy := range hierarchies {
		fmt.Fprintf(&list, "%s %d %s\n", hierarchy.Mountpoint, hierarchy.Version, hierarchy.Options)
	}
	if err := os.WriteFile(n.path("cgroups"), []byte(list.String()), 0o644); err != nil {
		return process.Command{}, err
	}
	return process.Command{
		Component:  n.Name(),
		Program:    "sh",
		Path:       "/bin/sh",
		Args:       []string{n.path("init.sh"), n.Name(), n.dir, n.Pause.Program, n.ControlGroup()},
		Log:        n.Cluster.Log(n.Name()),
		Namespaces: unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
	}, nil
}

// ContainerdCommand starts containerd in the node with that first process.
func (n Node) ContainerdCommand(first process.Process) process.Command {
	return n.daemon(first, Containerd(n.Name()), n.Debian.Program("containerd"))
}

// KubeletCommand starts kubelet in the node with that first process.
func (n Node) KubeletCommand(first process.Process) process.Command {
	return n.daemon(first, Kubelet(n.Name()), n.Kubernetes.Kubelet,
		"--config=/etc/kubernetes/kubelet.json",
		"--kubeconfig=/etc/kubernetes/kubelet.kubeconfig",
		"--hostname-override="+n.Name(),
		"--node-ip="+n.Address(),
		"--image-credential-provider-config="+providersDir+"/config.yaml",
		"--image-credential-provider-bin-dir="+providersDir+"/bin",
	)
}

// ProxyCommand starts kube-proxy in the node with that first process.
func (n Node) ProxyCommand(first process.Process) process.Command {
	return n.daemon(first, Proxy(n.Name()), n.Kubernetes.Proxy, "--config=/etc/kubernetes/kube-proxy.json")
}

func (n Node) daemon(first process.Process, component, program string, args ...string) process.Command {
	return process.Command{
		Component: component,
		Program:   "nsenter",
		Path:      n.Nsenter,
		Args:      append(append(enter(first), "sh", n.path("enter.sh"), program), args...),
		Env:       n.Debian.Env(),
		Log:       n.Cluster.Log(component),
	}
}

func enter(first process.Process) []string {
	return []string{"--target", strconv.Itoa(first.PID), "--mount", "--net", "--pid", "--ipc", "--uts", "--cgroup", "--"}
}

// LoadImage loads an OCI archive into the node, for all its pods.
func (n Node) LoadImage(first process.Process, archive string) error {
	content, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer content.Close()
	// The path may mean something else in the node.
	return n.ctr(first, content, "images", "import", "-")
}

// ContainerdAnswers returns nil once containerd serves requests.
func (n Node) ContainerdAnswers(first process.Process) error {
	return n.ctr(first, nil, "images", "list", "--quiet")
}

func (n Node) ctr(first process.Process, input *os.File, args ...string) error {
	arguments := append(enter(first), n.Debian.Program("ctr"), "--address", containerdSocket, "--namespace", "k8s.io")
	cmd := exec.Command(n.Nsenter, append(arguments, args...)...)
	cmd.Env = append(os.Environ(), n.Debian.Env()...)
	if input != nil {
		cmd.Stdin = input
	}
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("ctr %s in %s: %w: %s", strings.Join(args, " "), n.Name(), err, strings.TrimSpace(output.String()))
	}
	return nil
}
