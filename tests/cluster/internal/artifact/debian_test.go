package artifact

import (
	"slices"
	"testing"
)

const policy = `runc:
  Installed: (none)
  Candidate: 1.1.5+ds1-1
  Version table:
     1.1.5+ds1-1 500
        500 http://deb.debian.org/debian bookworm/main amd64 Packages
libmnl0:
  Installed: 1.0.4-3
  Candidate: 1.0.4-3
  Version table:
 *** 1.0.4-3 500
gone:
  Installed: (none)
  Candidate: (none)
`

func TestTheCandidateVersionsAreRead(t *testing.T) {
	versions, err := parsePolicy(policy, []string{"libmnl0", "runc"})
	if err != nil || !slices.Equal(versions, []string{"1.0.4-3", "1.1.5+ds1-1"}) {
		t.Errorf("got %v, %v", versions, err)
	}
}

func TestAPackageWithoutCandidateIsAnError(t *testing.T) {
	for _, name := range []string{"gone", "unheard-of"} {
		if versions, err := parsePolicy(policy, []string{"runc", name}); err == nil {
			t.Errorf("%s: got %v", name, versions)
		}
	}
}
