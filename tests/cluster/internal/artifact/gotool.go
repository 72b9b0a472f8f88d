package artifact

import (
	"path"
	"path/filepath"

	"pullpass.dev/tests/cluster/internal/cache"
)

// goTool is a program that is built from a published Go module.
type goTool struct {
	pkg, version, ldflags string
	// duration tells how long it takes, for people who wait.
	duration string
}

var (
	helm = goTool{
		pkg:      "helm.sh/helm/v4/cmd/helm",
		version:  "v4.3.1",
		ldflags:  "-s -w -X helm.sh/helm/v4/internal/version.version=v4.3.1",
		duration: "about 2 minutes on 2 cores",
	}
	kubeconform = goTool{
		pkg:      "github.com/yannh/kubeconform/cmd/kubeconform",
		version:  "v0.8.0",
		ldflags:  "-s -w -X main.version=v0.8.0",
		duration: "about half a minute on 2 cores",
	}
)

// Helm returns the path of helm.
func (s Source) Helm() (string, error) { return s.goTool(helm) }

// Kubeconform returns the path of kubeconform, which checks manifests against
// the schemas of Kubernetes.
func (s Source) Kubeconform() (string, error) { return s.goTool(kubeconform) }

func (s Source) goTool(tool goTool) (string, error) {
	name := path.Base(tool.pkg)
	var key cache.Key
	if err := s.goBuildKey(&key); err != nil {
		return "", err
	}
	key.Add(tool.pkg, tool.version)
	key.Add("ldflags", tool.ldflags)
	dir, err := s.Cache.Ensure(cache.Entry{Name: name, Key: key, Build: func(dir string) error {
		s.Say("building %s %s from source: once per version, %s", name, tool.version, tool.duration)
		// Outside of any module, so that the tool is built with the
		// dependencies that its own release names.
		cmd := goCommand(dir, "install", "-v", "-trimpath", "-ldflags", tool.ldflags, tool.pkg+"@"+tool.version)
		cmd.Env = append(cmd.Env, "GOBIN="+dir)
		return s.runWithProgress(cmd, "building "+name+" (once)")
	}})
	return filepath.Join(dir, name), err
}
