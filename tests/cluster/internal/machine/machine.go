// Package machine tells what a cluster needs of the machine it runs on.
package machine

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"pullpass.dev/tests/cluster/internal/cgroup"
)

// Prerequisites are the Debian packages that have to be installed on the
// machine, with a program of each. They are small tools that neither replace
// nor start anything; whatever would is unpacked into the cache instead.
var Prerequisites = []Prerequisite{
	{Package: "iproute2", Program: "ip"},
	{Package: "util-linux", Program: "nsenter"},
	{Package: "mount", Program: "mount"},
}

// Prerequisite is a Debian package and a program by which it is recognized.
type Prerequisite struct{ Package, Program string }

// Check returns an error that says, one sentence each, what the machine lacks
// and what to do about it.
func Check() error {
	if runtime.GOOS != "linux" {
		return errors.New("the local cluster needs Linux: use a Debian machine, virtual or not")
	}
	var lacking []error
	add := func(format string, args ...any) { lacking = append(lacking, fmt.Errorf(format, args...)) }
	if os.Geteuid() != 0 {
		add("the local cluster makes namespaces and network interfaces: run it as root")
	}
	for _, tool := range []string{"apt-get", "apt-cache", "dpkg-deb"} {
		if _, err := exec.LookPath(tool); err != nil {
			add("%s is missing: the local cluster takes containerd and others from Debian packages, so use a Debian machine", tool)
			break
		}
	}
	if _, err := exec.LookPath("go"); err != nil {
		add("Go is missing: install it from https://go.dev/dl/ and put its bin directory on the PATH")
	}
	for _, name := range []string{"mnt", "net", "pid", "ipc", "uts", "cgroup"} {
		if _, err := os.Stat(filepath.Join("/proc/self/ns", name)); err != nil {
			add("the kernel has no %s namespaces: use one that has them, as Debian's has", name)
		}
	}
	if err := checkOverlay(); err != nil {
		lacking = append(lacking, err)
	}
	if err := checkCgroups(); err != nil {
		lacking = append(lacking, err)
	}
	if os.Geteuid() == 0 {
		if err := checkPrivileges(); err != nil {
			lacking = append(lacking, err)
		}
	}
	return errors.Join(lacking...)
}

func checkOverlay() error {
	filesystems, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		return err
	}
	if bytes.Contains(filesystems, []byte("\toverlay\n")) {
		return nil
	}
	if exec.Command("modprobe", "overlay").Run() == nil {
		return nil
	}
	return errors.New("the kernel has no overlay file system, which containers are made with: use one that has it, as Debian's has")
}

func checkCgroups() error {
	hierarchies, err := cgroup.Hierarchies()
	if err != nil {
		return err
	}
	if len(hierarchies) == 0 {
		return errors.New("no control groups are mounted under /sys/fs/cgroup: mount them (`mount -t cgroup2 cgroup2 /sys/fs/cgroup`), or give the container that this runs in access to them")
	}
	if os.Geteuid() != 0 {
		return nil
	}
	for _, hierarchy := range hierarchies {
		if err := unix.Access(hierarchy.Mountpoint, unix.W_OK); err != nil {
			return fmt.Errorf("control groups under %s cannot be written to: run this on the machine itself, or in a privileged container", hierarchy.Mountpoint)
		}
	}
	return nil
}

// Whether the rights of root are whole is only seen by using them.
func checkPrivileges() error {
	if _, err := exec.LookPath("unshare"); err != nil {
		// It is installed with the prerequisites.
		return nil
	}
	out, err := exec.Command("unshare", "--mount", "--net", "--pid", "--ipc", "--uts", "--cgroup", "--fork",
		"mount", "-t", "tmpfs", "tmpfs", "/run").CombinedOutput()
	if err != nil {
		return fmt.Errorf("namespaces or mounts are not allowed here (%s): run this on the machine itself, or in a privileged container", strings.TrimSpace(string(out)))
	}
	return nil
}

// Missing lists the packages of the prerequisites that are not installed.
func Missing() []string {
	var missing []string
	for _, prerequisite := range Prerequisites {
		if _, err := exec.LookPath(prerequisite.Program); err != nil {
			missing = append(missing, prerequisite.Package)
		}
	}
	return missing
}

// Install installs packages from Debian.
func Install(packages []string) error {
	install := func() ([]byte, error) {
		cmd := exec.Command("apt-get", append([]string{"install", "-y", "-qq", "--no-install-recommends"}, packages...)...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		return cmd.CombinedOutput()
	}
	if _, err := install(); err == nil {
		return nil
	}
	// A fresh machine has not asked its mirror yet.
	if out, err := exec.Command("apt-get", "update", "-qq").CombinedOutput(); err != nil {
		return fmt.Errorf("apt-get update: %w\n%s", err, out)
	}
	if out, err := install(); err != nil {
		return fmt.Errorf("apt-get install %s: %w\n%s", strings.Join(packages, " "), err, out)
	}
	return nil
}

// MayLowerOOMScore tells whether processes may be protected from the kernel's
// out-of-memory killer (capabilities(7): CAP_SYS_RESOURCE).
func MayLowerOOMScore() (bool, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false, fmt.Errorf("capget: %w", err)
	}
	return data[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0, nil
}

// BootID is another one after every boot.
func BootID() (string, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(id)), err
}
