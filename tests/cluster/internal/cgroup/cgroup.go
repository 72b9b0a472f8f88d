// Package cgroup gives a node control groups of its own, in every hierarchy
// that the machine has, so that what its pods leave there can be found and
// removed.
package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Hierarchy is one mounted cgroup hierarchy.
type Hierarchy struct {
	// Mountpoint is where it is mounted.
	Mountpoint string
	// Version is 1 or 2.
	Version int
	// Options are the mount options that name it (version 1 only), such as
	// "cpu,cpuacct" or "none,name=systemd".
	Options string
}

// Hierarchies lists the machine's.
func Hierarchies() ([]Hierarchy, error) {
	mounts, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer mounts.Close()
	return parseMounts(mounts)
}

// The format is that of proc_pid_mountinfo(5).
func parseMounts(mounts io.Reader) ([]Hierarchy, error) {
	var found []Hierarchy
	lines := bufio.NewScanner(mounts)
	for lines.Scan() {
		before, after, ok := strings.Cut(lines.Text(), " - ")
		own, super := strings.Fields(before), strings.Fields(after)
		if !ok || len(own) < 5 || len(super) < 3 {
			continue
		}
		// A mount that is masked by a later one on the same place, or that
		// shows a part of the hierarchy only, is for somebody else.
		if own[3] != "/" || !strings.HasPrefix(own[4], "/sys/fs/cgroup") {
			continue
		}
		switch super[0] {
		case "cgroup":
			found = append(found, Hierarchy{Mountpoint: own[4], Version: 1, Options: versionOneOptions(super[2])})
		case "cgroup2":
			found = append(found, Hierarchy{Mountpoint: own[4], Version: 2})
		}
	}
	return found, lines.Err()
}

func versionOneOptions(super string) string {
	var kept []string
	for option := range strings.SplitSeq(super, ",") {
		switch {
		case option == "rw", option == "ro", option == "xattr", strings.HasPrefix(option, "release_agent="):
		case strings.HasPrefix(option, "name="):
			kept = append(kept, "none", option)
		default:
			kept = append(kept, option)
		}
	}
	return strings.Join(kept, ",")
}

// Leaf is the group below a node's own one in which its daemons run: version
// 2 allows no processes in a group whose children are controlled.
const Leaf = "init"

// How many times the default share of the processors a node has where they
// are short, and its daemons beside its pods: kubelet gives up on a pull secret
// after a second, which many pods that start at once would take from it.
const (
	nodeShares = 4
	leafShares = 8
)

// Create makes a group of that name, and its leaf, in every hierarchy.
func Create(hierarchies []Hierarchy, name string) error {
	for _, hierarchy := range hierarchies {
		for _, group := range []struct {
			name   string
			shares int
		}{{name, nodeShares}, {filepath.Join(name, Leaf), leafShares}} {
			dir := filepath.Join(hierarchy.Mountpoint, group.name)
			if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
			if err := inheritCPUSet(dir); err != nil {
				return err
			}
			if err := weigh(dir, group.shares); err != nil {
				return err
			}
		}
	}
	return nil
}

// The files are those of version 1 and 2, where the hierarchy has processors
// to give.
func weigh(dir string, shares int) error {
	for name, usual := range map[string]int{"cpu.shares": 1024, "cpu.weight": 100} {
		err := writeExisting(filepath.Join(dir, name), strconv.Itoa(shares*usual))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func writeExisting(path, content string) error {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = file.WriteString(content)
	return errors.Join(err, file.Close())
}

// A new group of a version 1 cpuset has no processor and admits no process.
func inheritCPUSet(dir string) error {
	for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
		parent, err := os.ReadFile(filepath.Join(filepath.Dir(dir), name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		own, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		// Version 2 has a file of that name too; empty means inherited.
		if len(strings.TrimSpace(string(own))) > 0 || len(strings.TrimSpace(string(parent))) == 0 {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, name), parent, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// Remove removes the groups of that name with everything below them. Their
// processes must have been killed; the kernel may take a moment to let go.
func Remove(hierarchies []Hierarchy, name string) error {
	deadline := time.Now().Add(20 * time.Second)
	for _, hierarchy := range hierarchies {
		for {
			err := removeTree(filepath.Join(hierarchy.Mountpoint, name))
			if err == nil {
				break
			}
			if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
				return fmt.Errorf("remove control group: %w", err)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	return nil
}

// Only directories can be removed, and with them goes what is in them.
func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.IsDir() {
			if err := removeTree(filepath.Join(dir, entry.Name())); err != nil {
				return err
			}
		}
	}
	if err := unix.Rmdir(dir); err != nil && err != unix.ENOENT {
		return &fs.PathError{Op: "rmdir", Path: dir, Err: err}
	}
	return nil
}
