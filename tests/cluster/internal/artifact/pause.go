package artifact

import (
	"os"
	"path/filepath"
	"runtime"

	"pullpass.dev/tests/cluster/internal/cache"
	"pullpass.dev/tests/cluster/internal/ociarchive"
)

// PauseImage is the name of the image that holds a pod's namespaces.
const PauseImage = "pullpass.test/pause:1"

// Pause is a program that sleeps and reaps, and an image of it.
type Pause struct {
	Program string
	// Archive is an OCI archive.
	Archive string
}

// Pause returns the first process of nodes and pods.
func (s Source) Pause() (Pause, error) {
	var key cache.Key
	if err := s.goBuildKey(&key); err != nil {
		return Pause{}, err
	}
	for _, path := range []string{
		s.path("cmd", "pause", "main.go"), s.path("internal", "ociarchive", "ociarchive.go"), s.path("internal", "artifact", "pause.go"),
	} {
		if err := key.AddFile(path); err != nil {
			return Pause{}, err
		}
	}
	dir, err := s.Cache.Ensure(cache.Entry{Name: "pause", Key: key, Build: func(dir string) error {
		program := filepath.Join(dir, "pause")
		cmd := goCommand(s.Module, "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", program, "./cmd/pause")
		if err := run(cmd); err != nil {
			return err
		}
		content, err := os.ReadFile(program)
		if err != nil {
			return err
		}
		archive, err := ociarchive.SingleProgram(PauseImage, runtime.GOARCH, "pause", content)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, "pause.tar"), archive, 0o644)
	}})
	return Pause{Program: filepath.Join(dir, "pause"), Archive: filepath.Join(dir, "pause.tar")}, err
}
