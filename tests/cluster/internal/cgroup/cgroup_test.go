package cgroup

import (
	"slices"
	"strings"
	"testing"
)

func TestHierarchiesOfBothVersionsAreFound(t *testing.T) {
	cases := map[string]struct {
		mounts string
		want   []Hierarchy
	}{
		"unified": {
			"30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n",
			[]Hierarchy{{Mountpoint: "/sys/fs/cgroup", Version: 2}},
		},
		"hybrid": {
			"31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n" +
				"32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 master:2 - cgroup cgroup rw,cpu,cpuacct\n" +
				"40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/lib/agent,name=systemd\n" +
				"41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
			[]Hierarchy{
				{Mountpoint: "/sys/fs/cgroup/cpu,cpuacct", Version: 1, Options: "cpu,cpuacct"},
				{Mountpoint: "/sys/fs/cgroup/systemd", Version: 1, Options: "none,name=systemd"},
				{Mountpoint: "/sys/fs/cgroup/unified", Version: 2},
			},
		},
		"of a container, elsewhere": {
			"32 31 0:29 /docker/1 /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n" +
				"33 31 0:29 / /srv/root/sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n",
			nil,
		},
	}
	for name, c := range cases {
		found, err := parseMounts(strings.NewReader(c.mounts))
		if err != nil || !slices.Equal(found, c.want) {
			t.Errorf("%s: got %v, %v", name, found, err)
		}
	}
}
