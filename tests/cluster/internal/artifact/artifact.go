// Package artifact knows what a cluster is made of that has to be built or
// fetched first, and keeps it in the cache.
package artifact

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"pullpass.dev/tests/cluster/internal/cache"
)

// Source builds artifacts from the Go module in a directory.
type Source struct {
	// Module is the directory of this Go module.
	Module string
	Cache  *cache.Cache
	// Say tells a person what is going on.
	Say func(format string, args ...any)
}

// goBuild adds what all Go programs' results depend on, and returns the
// command's environment: static binaries, whatever compilers a machine has.
func (s Source) goBuildKey(key *cache.Key) error {
	version, err := s.goEnv("GOVERSION")
	if err != nil {
		return err
	}
	key.Add("go", version)
	key.Add("platform", runtime.GOOS+"/"+runtime.GOARCH)
	return nil
}

func (s Source) goEnv(name string) (string, error) {
	cmd := exec.Command("go", "env", name)
	// The toolchain that builds the module is the one that counts.
	cmd.Dir = s.Module
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("go env %s: %w", name, err)
	}
	return strings.TrimSpace(string(out)), nil
}

func goCommand(dir string, args ...string) *exec.Cmd {
	cmd := exec.Command("go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOOS="+runtime.GOOS, "GOARCH="+runtime.GOARCH)
	return cmd
}

func (s Source) path(elements ...string) string {
	return filepath.Join(append([]string{s.Module}, elements...)...)
}
