package controlplane

import (
	"crypto/x509"
	"encoding/pem"
	"os"
	"slices"
	"strings"
	"testing"

	"pullpass.dev/tests/cluster/internal/address"
	"pullpass.dev/tests/cluster/internal/layout"
)

func TestWithoutALinkEverythingListensOnTheLoopbackAddress(t *testing.T) {
	config := inSlot(t, address.FullSlots)
	if !strings.HasPrefix(config.ServerURL(), "https://127.0.0.1:") {
		t.Errorf("the API server is at %s", config.ServerURL())
	}
	args := config.APIServerCommand().Args
	for _, wanted := range []string{"--bind-address=127.0.0.1", "--endpoint-reconciler-type=none"} {
		if !slices.Contains(args, wanted) {
			t.Errorf("the API server is started without %s", wanted)
		}
	}
}

func TestNobodyListensOnEveryAddressOfTheMachine(t *testing.T) {
	for _, slot := range []int{0, address.FullSlots} {
		config := inSlot(t, slot)
		for _, command := range [][]string{
			config.EtcdCommand().Args, config.APIServerCommand().Args,
			config.ControllerManagerCommand().Args, config.SchedulerCommand().Args,
		} {
			listens := false
			for _, arg := range command {
				if strings.Contains(arg, "0.0.0.0") {
					t.Errorf("slot %d: %s", slot, arg)
				}
				listens = listens || strings.HasPrefix(arg, "--bind-address=") || strings.HasPrefix(arg, "--listen-client-urls=")
			}
			if !listens {
				t.Errorf("slot %d: it is left to the default where this listens: %v", slot, command)
			}
		}
	}
}

func TestTheServerIsTrustedUnderEveryAddressThatLeadsToIt(t *testing.T) {
	config := inSlot(t, 0)
	if err := config.IssueCertificates(); err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(load(t, config.CA()))
	server := load(t, config.pair("apiserver").Cert)
	for _, name := range []string{
		"localhost", "127.0.0.1", config.Plan.Machine.String(), config.Plan.KubernetesService.String(), "kubernetes.default.svc",
	} {
		if _, err := server.Verify(x509.VerifyOptions{DNSName: name, Roots: roots}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	admin := load(t, config.Administrator().Cert)
	usages := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if _, err := admin.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: usages}); err != nil {
		t.Error(err)
	}
	// Whoever it signs for may speak for any user.
	aggregator := load(t, config.pair("front-proxy-client").Cert)
	if _, err := aggregator.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: usages}); err == nil {
		t.Error("the aggregator's certificate is good for an ordinary client")
	}
}

func TestANodeThatComesLaterIsSignedForByTheSameAuthority(t *testing.T) {
	config := inSlot(t, 0)
	if err := config.IssueCertificates(); err != nil {
		t.Fatal(err)
	}
	authority, err := config.Authority()
	if err != nil {
		t.Fatal(err)
	}
	later := config.pair("later")
	if err := authority.Client(later, "system:node:node-2", "system:nodes"); err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(load(t, config.CA()))
	usages := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if _, err := load(t, later.Cert).Verify(x509.VerifyOptions{Roots: roots, KeyUsages: usages}); err != nil {
		t.Error(err)
	}
}

func inSlot(t *testing.T, slot int) Config {
	t.Helper()
	plan, err := address.ForSlot(slot)
	if err != nil {
		t.Fatal(err)
	}
	return Config{Cluster: layout.Cluster{Name: "test", Dir: t.TempDir()}, Plan: plan, Binary: "/kube"}
}

func load(t *testing.T, path string) *x509.Certificate {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(content)
	if block == nil {
		t.Fatalf("%s holds no PEM", path)
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}
