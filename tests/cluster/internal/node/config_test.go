package node

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pullpass.dev/tests/cluster/internal/address"
	"pullpass.dev/tests/cluster/internal/artifact"
	"pullpass.dev/tests/cluster/internal/layout"
	"pullpass.dev/tests/cluster/internal/pki"
)

func TestTheNodesFilesNameItsOwnAddressesAndRegistry(t *testing.T) {
	node := written(t)
	for file, wanted := range map[string][]string{
		"containerd-config/config.toml":                          {`sandbox_image = "` + artifact.PauseImage + `"`, "restrict_oom_score_adj = true"},
		"containerd-config/certs.d/198.18.20.1:26005/hosts.toml": {`[host."https://198.18.20.1:26005"]`, `ca = "/etc/containerd/certs.d/198.18.20.1:26005/ca.crt"`},
		"containerd-config/certs.d/198.18.20.1:26005/ca.crt":     {"BEGIN CERTIFICATE"},
		"cni-config/10-pullpass.conflist":                        {`"subnet": "198.18.0.0/22"`},
		"kubernetes/credential-providers/config.yaml":            {"name: stand-in-provider"},
		"kubernetes/credential-providers/bin/stand-in-provider":  {"CredentialProviderResponse"},
		"kubernetes/kubelet.json":                                {`"address": "198.18.20.2"`, `"failCgroupV1": false`},
		"kubernetes/kube-proxy.json":                             {`"mode": "nftables"`, `"clusterCIDR": "198.18.0.0/20"`},
		"kubernetes/kubelet.kubeconfig":                          {"system:node:node-1", "https://198.18.20.1:26000"},
	} {
		content, err := os.ReadFile(node.path(file))
		if err != nil {
			t.Error(err)
			continue
		}
		for _, text := range wanted {
			if !strings.Contains(string(content), text) {
				t.Errorf("%s lacks %s:\n%s", file, text, content)
			}
		}
	}
}

func TestTheNodeHasAddressesForAllItsPods(t *testing.T) {
	node := written(t)
	content, err := os.ReadFile(node.path("kubernetes/kubelet.json"))
	if err != nil {
		t.Fatal(err)
	}
	var kubelet struct{ MaxPods int }
	if err := json.Unmarshal(content, &kubelet); err != nil {
		t.Fatal(err)
	}
	// Twice as many, for pods that end while others start.
	if addresses := 1 << (32 - node.network.Pods.Bits()); kubelet.MaxPods < 400 || addresses < 2*kubelet.MaxPods {
		t.Errorf("%d pods, %d addresses", kubelet.MaxPods, addresses)
	}
}

func TestAClusterWithoutALinkHasNoNode(t *testing.T) {
	plan, err := address.ForSlot(address.FullSlots)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(Config{Plan: plan}, 1); err == nil {
		t.Error("a node was made where there is no link")
	}
}

func written(t *testing.T) Node {
	t.Helper()
	dir := t.TempDir()
	plan, err := address.ForSlot(0)
	if err != nil {
		t.Fatal(err)
	}
	files := pki.In(dir, "ca")
	authority, err := pki.NewAuthority("test", files)
	if err != nil {
		t.Fatal(err)
	}
	node, err := New(Config{
		Cluster:          layout.Cluster{Name: "test", Dir: filepath.Join(dir, "cluster")},
		Plan:             plan,
		APIServer:        "https://198.18.20.1:26000",
		CA:               files.Cert,
		Registry:         Registry{Host: "198.18.20.1:26005", CA: files.Cert},
		RestrictOOMScore: true,
	}, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := node.WriteConfig(authority); err != nil {
		t.Fatal(err)
	}
	return node
}
