package artifact

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"pullpass.dev/tests/cluster/internal/cache"
)

// Packages that are unpacked into the cache rather than installed, since to
// install them could replace or start what the machine uses itself: Debian's
// containerd, for one, replaces Docker's.
var unpacked = []string{
	"containerd", "runc", "libseccomp2",
	"containernetworking-plugins",
	"docker-registry", "tinyproxy-bin", "prometheus",
	"nftables", "libnftables1", "libnftnl11", "libxtables12", "libmnl0",
	"libjansson4", "libedit2", "libgmp10", "libbsd0", "libmd0", "libtinfo6",
}

// Debian is a tree of unpacked Debian packages.
type Debian struct{ root string }

// Program is the path of a program in the tree.
func (d Debian) Program(name string) string {
	for _, dir := range d.binDirs() {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	// Whoever starts it gets an error that names this path.
	return filepath.Join(d.binDirs()[0], name)
}

// Nft lists and changes firewall rules, with the tree's own libraries.
func (d Debian) Nft() string { return filepath.Join(d.root, "bin", "nft") }

// CNIPlugins is the directory of the plugins.
func (d Debian) CNIPlugins() string { return filepath.Join(d.root, "usr", "lib", "cni") }

// Env makes the tree's programs and libraries come before the machine's.
func (d Debian) Env() []string {
	return []string{
		"PATH=" + strings.Join(d.binDirs(), ":") + ":/usr/sbin:/usr/bin:/sbin:/bin",
		"LD_LIBRARY_PATH=" + d.libraries(),
	}
}

func (d Debian) binDirs() []string {
	return []string{filepath.Join(d.root, "usr", "sbin"), filepath.Join(d.root, "usr", "bin")}
}

func (d Debian) libraries() string {
	found, _ := filepath.Glob(filepath.Join(d.root, "usr", "lib", "*-linux-gnu"))
	more, _ := filepath.Glob(filepath.Join(d.root, "lib", "*-linux-gnu"))
	return strings.Join(append(found, more...), ":")
}

// Debian returns the unpacked Debian packages that a node and the registry
// consist of, a proxy that tests go through, and promtool, in the versions
// that apt would install.
func (s Source) Debian() (Debian, error) {
	versions, err := candidates()
	if err != nil {
		s.Say("asking the Debian mirror for its packages")
		if err := run(exec.Command("apt-get", "update", "-qq")); err != nil {
			return Debian{}, err
		}
		if versions, err = candidates(); err != nil {
			return Debian{}, err
		}
	}
	var key cache.Key
	if err := key.AddFile(s.path("internal", "artifact", "debian.go")); err != nil {
		return Debian{}, err
	}
	for i, name := range unpacked {
		key.Add(name, versions[i])
	}
	dir, err := s.Cache.Ensure(cache.Entry{Name: "debian", Key: key, Build: func(dir string) error {
		s.Say("fetching containerd, runc, CNI plugins, nftables, a registry, a proxy and promtool from Debian (about 60 MB, once)")
		return s.unpack(dir, versions)
	}})
	return Debian{root: dir}, err
}

// candidates are the versions of the packages that apt would install.
func candidates() ([]string, error) {
	out, err := exec.Command("apt-cache", append([]string{"policy", "--quiet"}, unpacked...)...).Output()
	if err != nil {
		return nil, fmt.Errorf("apt-cache policy: %w", err)
	}
	return parsePolicy(string(out), unpacked)
}

func parsePolicy(policy string, names []string) ([]string, error) {
	versions := map[string]string{}
	current := ""
	for line := range strings.Lines(policy) {
		if name, ok := strings.CutSuffix(strings.TrimRight(line, "\n"), ":"); ok && !strings.HasPrefix(line, " ") {
			current = name
		} else if version, ok := strings.CutPrefix(strings.TrimSpace(line), "Candidate: "); ok && version != "(none)" {
			versions[current] = version
		}
	}
	var found []string
	for _, name := range names {
		if versions[name] == "" {
			return nil, fmt.Errorf("apt knows no package %s: check that /etc/apt/sources.list names a Debian mirror that can be reached", name)
		}
		found = append(found, versions[name])
	}
	return found, nil
}

func (s Source) unpack(dir string, versions []string) error {
	downloads, err := os.MkdirTemp("", "pullpass-debian-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(downloads)
	if err := download(downloads, versions); err != nil {
		// The mirror has replaced a version since apt last asked.
		s.Say("some packages are not there any more, asking the Debian mirror for its packages")
		if err := run(exec.Command("apt-get", "update", "-qq")); err != nil {
			return err
		}
		if versions, err = candidates(); err != nil {
			return err
		}
		if err := download(downloads, versions); err != nil {
			return err
		}
	}
	archives, err := filepath.Glob(filepath.Join(downloads, "*.deb"))
	if err != nil {
		return err
	}
	for _, archive := range archives {
		if err := run(exec.Command("dpkg-deb", "--extract", archive, dir)); err != nil {
			return err
		}
	}
	for _, unneeded := range []string{"usr/share", "etc", "lib/systemd", "usr/bin/prometheus"} {
		if err := os.RemoveAll(filepath.Join(dir, unneeded)); err != nil {
			return err
		}
	}
	if err := wrapNft(dir); err != nil {
		return err
	}
	var list bytes.Buffer
	for i, name := range unpacked {
		fmt.Fprintf(&list, "%s %s\n", name, versions[i])
	}
	return os.WriteFile(filepath.Join(dir, "versions"), list.Bytes(), 0o644)
}

// A machine without nftables has not got its libraries either.
func wrapNft(dir string) error {
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o755); err != nil {
		return err
	}
	script := `#!/bin/sh
root=$(dirname "$(dirname "$(readlink -f "$0")")")
for libraries in "$root"/usr/lib/*-linux-gnu "$root"/lib/*-linux-gnu; do
    LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$libraries
done
export LD_LIBRARY_PATH
exec "$root/usr/sbin/nft" "$@"
`
	return os.WriteFile(filepath.Join(dir, "bin", "nft"), []byte(script), 0o755)
}

func download(dir string, versions []string) error {
	// apt's own user cannot write into a directory of root's.
	args := []string{"-qq", "-o", "APT::Sandbox::User=root", "download"}
	for i, name := range unpacked {
		args = append(args, name+"="+versions[i])
	}
	cmd := exec.Command("apt-get", args...)
	cmd.Dir = dir
	return run(cmd)
}
