package artifact

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"

	"pullpass.dev/tests/cluster/internal/cache"
)

// Kubernetes is etcd and every component of Kubernetes.
type Kubernetes struct {
	// Binary is each of them, chosen by the name it is called by.
	Binary string
	// The others are links to it for callers that cannot choose the name.
	Kubectl, Kubelet, Proxy string
}

// Kubernetes returns the built components.
func (s Source) Kubernetes() (Kubernetes, error) {
	version, err := s.kubernetesVersion()
	if err != nil {
		return Kubernetes{}, err
	}
	ldflags := versionFlags(version)
	var key cache.Key
	if err := s.goBuildKey(&key); err != nil {
		return Kubernetes{}, err
	}
	key.Add("ldflags", ldflags)
	sources, err := filepath.Glob(s.path("cmd", "kube", "*.go"))
	if err != nil {
		return Kubernetes{}, err
	}
	for _, path := range append([]string{s.path("go.mod"), s.path("go.sum")}, sources...) {
		if err := key.AddFile(path); err != nil {
			return Kubernetes{}, err
		}
	}
	dir, err := s.Cache.Ensure(cache.Entry{Name: "kubernetes", Key: key, Build: func(dir string) error {
		s.Say("building etcd and Kubernetes %s from source: once per version, about 6 to 11 minutes on 2 cores", version)
		cmd := goCommand(s.Module, "build", "-v", "-mod=readonly", "-trimpath", "-buildvcs=false",
			"-ldflags", ldflags, "-o", filepath.Join(dir, "kube"), "./cmd/kube")
		if err := s.runWithProgress(cmd, "building Kubernetes (once)"); err != nil {
			return err
		}
		for _, name := range []string{"kubectl", "kubelet", "kube-proxy"} {
			if err := os.Symlink("kube", filepath.Join(dir, name)); err != nil {
				return err
			}
		}
		return nil
	}})
	return Kubernetes{
		Binary:  filepath.Join(dir, "kube"),
		Kubectl: filepath.Join(dir, "kubectl"),
		Kubelet: filepath.Join(dir, "kubelet"),
		Proxy:   filepath.Join(dir, "kube-proxy"),
	}, err
}

var (
	requirement   = regexp.MustCompile(`(?m)^\s*k8s\.io/kubernetes (v\d+\.\d+\.\d+)\s*$`)
	versionNumber = regexp.MustCompile(`^v(\d+)\.(\d+)\.`)
)

func (s Source) kubernetesVersion() (string, error) {
	gomod, err := os.ReadFile(s.path("go.mod"))
	if err != nil {
		return "", err
	}
	match := requirement.FindSubmatch(gomod)
	if match == nil {
		return "", fmt.Errorf("%s requires no released k8s.io/kubernetes", s.path("go.mod"))
	}
	return string(match[1]), nil
}

// Without these, components, nodes and clients say that they are v0.0.0.
func versionFlags(version string) string {
	number := versionNumber.FindStringSubmatch(version)
	flags := "-s -w"
	for _, pkg := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		flags += " -X " + pkg + ".gitVersion=" + version
		if number != nil {
			flags += " -X " + pkg + ".gitMajor=" + number[1] + " -X " + pkg + ".gitMinor=" + number[2]
		}
	}
	return flags
}
