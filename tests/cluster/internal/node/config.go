package node

import (
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"text/template"

	"pullpass.dev/tests/cluster/internal/kubeconfig"
	"pullpass.dev/tests/cluster/internal/pki"
)

//go:embed containerd.toml hosts.toml init.sh enter.sh providers.yaml stand-in-provider.sh
var files embed.FS

var templates = template.Must(template.ParseFS(files, "*.toml"))

// WriteConfig writes everything that the node's daemons read, with
// certificates signed by the cluster's authority.
func (n Node) WriteConfig(authority *pki.Authority) error {
	for _, dir := range []string{
		"containerd", "containerd-config", "cni-config", "dbus", "kubernetes/pki", "kubernetes/credential-providers/bin", "kubernetes/manifests", "kubelet", "pod-logs",
		"containerd-config/certs.d/" + n.Registry.Host,
	} {
		if err := os.MkdirAll(n.path(dir), 0o755); err != nil {
			return err
		}
	}
	if err := n.writeCredentials(authority); err != nil {
		return err
	}
	if err := copyFile(n.Registry.CA, n.path("containerd-config/certs.d", n.Registry.Host, "ca.crt")); err != nil {
		return err
	}
	contents := map[string][]byte{}
	for name, config := range map[string]any{
		"kubernetes/kubelet.json":         n.kubeletConfig(),
		"kubernetes/kube-proxy.json":      n.proxyConfig(),
		"cni-config/10-pullpass.conflist": n.cniConfig(),
	} {
		rendered, err := json.MarshalIndent(config, "", "  ")
		if err != nil {
			return err
		}
		contents[name] = rendered
	}
	for name, from := range map[string]string{
		"containerd-config/config.toml":                                "containerd.toml",
		"containerd-config/certs.d/" + n.Registry.Host + "/hosts.toml": "hosts.toml",
	} {
		var rendered bytes.Buffer
		if err := templates.ExecuteTemplate(&rendered, from, n); err != nil {
			return err
		}
		contents[name] = rendered.Bytes()
	}
	for name, from := range map[string]string{
		"init.sh":  "init.sh",
		"enter.sh": "enter.sh",
		"kubernetes/credential-providers/config.yaml": "providers.yaml",
	} {
		content, err := files.ReadFile(from)
		if err != nil {
			return err
		}
		contents[name] = content
	}
	for name, content := range contents {
		if err := os.WriteFile(n.path(name), content, 0o644); err != nil {
			return err
		}
	}
	standIn, err := files.ReadFile("stand-in-provider.sh")
	if err != nil {
		return err
	}
	return os.WriteFile(n.path("kubernetes/credential-providers/bin/stand-in-provider"), standIn, 0o755)
}

func (n Node) writeCredentials(authority *pki.Authority) error {
	if err := copyFile(n.CA, n.path("kubernetes/pki/ca.crt")); err != nil {
		return err
	}
	server := pki.In(n.path("kubernetes/pki"), "kubelet-server")
	if err := authority.Server(server, []string{n.Name()}, []netip.Addr{n.network.Address}); err != nil {
		return err
	}
	for _, user := range []struct{ component, user, group string }{
		{"kubelet", "system:node:" + n.Name(), "system:nodes"},
		{"kube-proxy", "system:kube-proxy", "system:node-proxier"},
	} {
		pair := pki.In(n.path("kubernetes/pki"), user.component+"-client")
		if err := authority.Client(pair, user.user, user.group); err != nil {
			return err
		}
		err := kubeconfig.Write(n.path("kubernetes", user.component+".kubeconfig"), kubeconfig.Config{
			Name: "pullpass", Server: n.APIServer, CA: n.CA, User: user.user, Pair: pair,
		})
		if err != nil {
			return err
		}
	}
	return nil
}

type object = map[string]any

// Tests make hundreds of pods at once; kubelet's own limit is 110.
const maxPods = 500

// The fields are those of kubelet.config.k8s.io/v1beta1.
func (n Node) kubeletConfig() object {
	return object{
		"apiVersion": "kubelet.config.k8s.io/v1beta1",
		"kind":       "KubeletConfiguration",
		"authentication": object{
			"anonymous": object{"enabled": false},
			"webhook":   object{"enabled": true},
			"x509":      object{"clientCAFile": "/etc/kubernetes/pki/ca.crt"},
		},
		"authorization":            object{"mode": "Webhook"},
		"tlsCertFile":              "/etc/kubernetes/pki/kubelet-server.crt",
		"tlsPrivateKeyFile":        "/etc/kubernetes/pki/kubelet-server.key",
		"address":                  n.network.Address.String(),
		"containerRuntimeEndpoint": "unix://" + containerdSocket,
		"clusterDomain":            "cluster.local",
		// There is no name server. Asked at this address, a pod refuses itself
		// at once; without any, kubelet would warn in every pod's events.
		"clusterDNS":   []string{"127.0.0.1"},
		"cgroupDriver": "cgroupfs",
		"failCgroupV1": false,
		// Without control groups for kinds of pods there are none to
		// reserve either, and the machine's are left alone.
		"cgroupsPerQOS":          false,
		"enforceNodeAllocatable": []string{},
		"failSwapOn":             false,
		// As on the nodes that kubeadm sets up.
		"staticPodPath": "/etc/kubernetes/manifests",
		"maxPods":       maxPods,
		// Tests search whole logs, and no part of one may be thrown away.
		"containerLogMaxSize": "1Gi",
		// A disk that is nearly full must not evict what tests have made.
		"evictionHard": object{
			"memory.available": "0%", "nodefs.available": "0%", "nodefs.inodesFree": "0%",
			"imagefs.available": "0%", "imagefs.inodesFree": "0%",
		},
		"imageGCHighThresholdPercent": 100,
		// Many small images at once, as tests with many pods pull them.
		"serializeImagePulls":   false,
		"maxParallelImagePulls": 8,
		"registryPullQPS":       50,
		"registryBurst":         100,
	}
}

// The fields are those of kubeproxy.config.k8s.io/v1alpha1.
func (n Node) proxyConfig() object {
	return object{
		"apiVersion":       "kubeproxy.config.k8s.io/v1alpha1",
		"kind":             "KubeProxyConfiguration",
		"mode":             "nftables",
		"clientConnection": object{"kubeconfig": "/etc/kubernetes/kube-proxy.kubeconfig"},
		"hostnameOverride": n.Name(),
		"clusterCIDR":      n.Plan.Pods.String(),
		// Connection tracking belongs to the whole kernel: leave it as it is.
		"conntrack": object{
			"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s",
		},
		"healthzBindAddress": n.network.Address.String() + ":10256",
	}
}

// A pair of interfaces for each pod, and a route to it: a bridge would hand
// on what pods of one node send each other without the node's rules seeing
// it, and so answers of Services would come from the wrong address.
func (n Node) cniConfig() object {
	return object{
		"cniVersion": "0.4.0",
		"name":       "pullpass",
		"plugins": []object{{
			"type": "ptp",
			"ipam": object{
				"type":    "host-local",
				"dataDir": "/run/cni-addresses",
				"ranges":  [][]object{{{"subnet": n.network.Pods.String()}}},
				"routes":  []object{{"dst": "0.0.0.0/0"}},
			},
		}},
	}
}

func (n Node) path(elements ...string) string {
	return filepath.Join(append([]string{n.dir}, elements...)...)
}

func copyFile(from, to string) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.WriteFile(to, content, 0o644); err != nil {
		return fmt.Errorf("copy %s: %w", from, err)
	}
	return nil
}
