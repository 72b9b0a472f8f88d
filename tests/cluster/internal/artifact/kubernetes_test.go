package artifact

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTheVersionIsTheOneThatTheModuleRequires(t *testing.T) {
	cases := map[string]string{
		"require (\n\tk8s.io/kubectl v0.37.2\n\tk8s.io/kubernetes v1.37.2\n)\n": "v1.37.2",
		"require k8s.io/kubectl v0.37.2\n":                                      "",
	}
	for gomod, want := range cases {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte(gomod), 0o644); err != nil {
			t.Fatal(err)
		}
		got, err := Source{Module: dir}.kubernetesVersion()
		if got != want || (err == nil) != (want != "") {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	}
}

func TestServersAndClientsAreStampedWithTheVersion(t *testing.T) {
	flags := versionFlags("v1.37.2")
	for _, pkg := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		for _, assignment := range []string{".gitVersion=v1.37.2", ".gitMajor=1", ".gitMinor=37"} {
			if !strings.Contains(flags, "-X "+pkg+assignment) {
				t.Errorf("%s%s is not set", pkg, assignment)
			}
		}
	}
}
