package layout

import (
	"os"
	"path/filepath"
	"testing"
)

func TestTheDefaultClusterLiesDirectlyInTheRoot(t *testing.T) {
	for _, name := range []string{"", DefaultName} {
		cluster, err := Named("/src/pullpass", name)
		if err != nil || cluster.Kubeconfig() != "/src/pullpass/.cluster/kubeconfig" {
			t.Errorf("%q: %s, %v", name, cluster.Kubeconfig(), err)
		}
	}
	named, err := Named("/src/pullpass", "api-1")
	if err != nil || named.Kubeconfig() != "/src/pullpass/.cluster/api-1/kubeconfig" {
		t.Errorf("api-1: %s, %v", named.Kubeconfig(), err)
	}
}

func TestNamesThatAreNoDirectoryOrSomebodyElsesAreRefused(t *testing.T) {
	for _, name := range []string{"..", "a/b", "A", "a_b", "-a", "a-", "etcd", "run", "audit.log", "abcdefghijabcdefghijabcdefghijabc"} {
		if cluster, err := Named("/src", name); err == nil {
			t.Errorf("%q was accepted as %s", name, cluster.Dir)
		}
	}
}

func TestEveryFileOfTheDefaultClusterIsRemovedAndNoOther(t *testing.T) {
	checkout := t.TempDir()
	first, other := mustName(t, checkout, ""), mustName(t, checkout, "other")
	for _, cluster := range []Cluster{first, other} {
		for _, path := range []string{
			cluster.Kubeconfig(), cluster.RegistryEnv(), cluster.AuditLog(), cluster.State(), cluster.PKI() + "/ca.crt",
			cluster.Etcd() + "/member", cluster.Config() + "/c", cluster.Registry() + "/r", cluster.Kubectl(),
			cluster.Node("node-1") + "/kubelet/x", cluster.Log("etcd"), cluster.PIDFile("etcd"),
			filepath.Join(cluster.Dir, "audit-2030-01-02T03-04-05.678.log"),
		} {
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	if existing, err := Existing(checkout); err != nil || len(existing) != 2 || existing[0] != first || existing[1] != other {
		t.Errorf("found %v, %v", existing, err)
	}
	if err := first.Remove(); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(Root(checkout))
	if err != nil || len(left) != 1 || left[0].Name() != "other" {
		t.Errorf("left: %v, %v", left, err)
	}
	if existing, err := Existing(checkout); err != nil || len(existing) != 1 || existing[0] != other {
		t.Errorf("found %v, %v", existing, err)
	}
	// Repeated, since down may be.
	for range 2 {
		if err := other.Remove(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(Root(checkout)); !os.IsNotExist(err) {
		t.Errorf("the root is still there: %v", err)
	}
}

func mustName(t *testing.T, checkout, name string) Cluster {
	t.Helper()
	cluster, err := Named(checkout, name)
	if err != nil {
		t.Fatal(err)
	}
	return cluster
}
