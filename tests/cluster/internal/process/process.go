// Package process starts, finds and ends the processes of clusters.
//
// A process is found by two variables in its environment, which it cannot
// lose and which children inherit, and by its program's name. Nothing is
// looked up by a recorded process id: ids are recycled, also by a reboot, and
// a record is missing where whoever should have written it was killed.
package process

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	clusterVariable   = "PULLPASS_CLUSTER_DIR"
	componentVariable = "PULLPASS_CLUSTER_COMPONENT"
)

// Process is a running process that belongs to a cluster.
type Process struct {
	PID int
	// startTime is in clock ticks since boot: with the id it is unique until
	// the next boot.
	startTime uint64
	// ClusterDir is the directory of the cluster it belongs to.
	ClusterDir string
	// Component is what it, or the ancestor that it inherits from, is.
	Component string
	// Program is the base name that it was called by.
	Program string
}

// Command is how to start a component.
type Command struct {
	Component string
	// Program is the name to call it by; Path is the file to execute.
	Program, Path string
	Args          []string
	// Env is added to the environment of the caller.
	Env []string
	// Log receives standard output and error, appended.
	Log string
	// Namespaces are the CLONE_NEW… flags of the namespaces it starts in.
	Namespaces uintptr
	// Precedes is whether it comes before others where processors are short,
	// as far as the machine allows.
	Precedes bool
}

// Start starts a component in a session of its own, so that it outlives the
// caller and its terminal, and returns its process id.
func Start(clusterDir string, command Command) (int, error) {
	if err := os.MkdirAll(filepath.Dir(command.Log), 0o755); err != nil {
		return 0, err
	}
	log, err := os.OpenFile(command.Log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return 0, err
	}
	defer log.Close()
	cmd := exec.Command(command.Path, command.Args...)
	cmd.Args[0] = command.Program
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), command.Env...)
	cmd.Env = append(cmd.Env, clusterVariable+"="+clusterDir, componentVariable+"="+command.Component)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: command.Namespaces}
	start := cmd.Start
	if command.Precedes {
		start = func() error { return precede(cmd) }
	}
	if err := start(); err != nil {
		return 0, fmt.Errorf("start %s: %w", command.Component, err)
	}
	pid := cmd.Process.Pid
	// Waiting reaps it, should it end before the caller does.
	go func() { _ = cmd.Wait() }()
	return pid, nil
}

// Starts it with a higher priority. Where that is not allowed, as in many a
// container, it does without.
func precede(cmd *exec.Cmd) error {
	const nice = -10
	// A child inherits from the thread that starts it. This one is not used
	// again, or it would keep the priority.
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		_ = unix.Setpriority(unix.PRIO_PROCESS, 0, nice)
		done <- cmd.Start()
	}()
	if err := <-done; err != nil {
		return err
	}
	// Between sessions the priority of the session counts, where the kernel
	// has it so: see "The autogroup feature" in sched(7).
	group := filepath.Join("/proc", strconv.Itoa(cmd.Process.Pid), "autogroup")
	_ = os.WriteFile(group, []byte(strconv.Itoa(nice)), 0)
	return nil
}

// List finds every process of any cluster on the machine.
func List() ([]Process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var found []Process
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if process, ok := inspect(pid); ok {
			found = append(found, process)
		}
	}
	return found, nil
}

// Of finds every process of one cluster.
func Of(clusterDir string) ([]Process, error) {
	all, err := List()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(p Process) bool { return p.ClusterDir != clusterDir }), nil
}

// Component picks the processes that are the component itself, and not one
// that it has started.
func Component(processes []Process, component, program string) []Process {
	var found []Process
	for _, process := range processes {
		if process.Component == component && process.Program == program {
			found = append(found, process)
		}
	}
	return found
}

// A process that ends while it is looked at is no process; nor is a zombie,
// which has no environment any more.
func inspect(pid int) (Process, bool) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	environment, err := os.ReadFile(filepath.Join(dir, "environ"))
	if err != nil {
		return Process{}, false
	}
	clusterDir, ok := variable(environment, clusterVariable)
	if !ok {
		return Process{}, false
	}
	component, _ := variable(environment, componentVariable)
	status, err := readStatus(pid)
	if err != nil {
		return Process{}, false
	}
	arguments, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	if err != nil {
		return Process{}, false
	}
	program, _, _ := bytes.Cut(arguments, []byte{0})
	return Process{
		PID:        pid,
		startTime:  status.startTime,
		ClusterDir: clusterDir,
		Component:  component,
		Program:    filepath.Base(string(program)),
	}, true
}

// The last assignment counts, as for the process itself when a caller that
// is part of one cluster starts another.
func variable(environment []byte, name string) (string, bool) {
	prefix := []byte(name + "=")
	value, found := "", false
	for assignment := range bytes.SplitSeq(environment, []byte{0}) {
		if rest, ok := bytes.CutPrefix(assignment, prefix); ok {
			value, found = string(rest), true
		}
	}
	return value, found
}

type status struct {
	ended     bool
	startTime uint64
}

func readStatus(pid int) (status, error) {
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return status{}, err
	}
	return parseStatus(string(stat))
}

// Fields 3 and 22 of proc_pid_stat(5); the second field is a name in
// parentheses that may itself contain spaces and parentheses.
func parseStatus(stat string) (status, error) {
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	const state, startTime = 3 - 3, 22 - 3
	if len(fields) <= startTime {
		return status{}, fmt.Errorf("unexpected process status %q", stat)
	}
	// Whether anybody collects a zombie is not in our hands.
	ended := fields[state] == "Z" || fields[state] == "X"
	ticks, err := strconv.ParseUint(fields[startTime], 10, 64)
	return status{ended: ended, startTime: ticks}, err
}

// Alive tells whether this very process still runs. The first process of a
// process id namespace does until the last one in it has ended.
func (p Process) Alive() bool {
	now, err := readStatus(p.PID)
	return err == nil && !now.ended && now.startTime == p.startTime
}

// Signal sends a signal to this very process, and never to another one that
// got its id. A process that has ended is no error.
func (p Process) Signal(signal unix.Signal) error {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("process %d: %w", p.PID, err)
	}
	defer unix.Close(fd)
	if !p.Alive() {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, signal, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("process %d (%s): %w", p.PID, p.Component, err)
	}
	return nil
}

// Stop asks the processes to end, waits, and then kills those that are left.
func Stop(processes []Process, patience time.Duration) error {
	for _, process := range processes {
		if err := process.Signal(unix.SIGTERM); err != nil {
			return err
		}
	}
	if awaitEnd(processes, patience) {
		return nil
	}
	return Kill(processes)
}

// Kill ends the processes at once and waits until they are gone.
func Kill(processes []Process) error {
	for _, process := range processes {
		if err := process.Signal(unix.SIGKILL); err != nil {
			return err
		}
	}
	if !awaitEnd(processes, 20*time.Second) {
		return errors.New("some processes do not end although they were killed: look for them with `ps -eo pid,stat,args` (state D hangs in the kernel)")
	}
	return nil
}

func awaitEnd(processes []Process, patience time.Duration) bool {
	deadline := time.Now().Add(patience)
	for {
		if !slices.ContainsFunc(processes, Process.Alive) {
			return true
		}
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(20 * time.Millisecond)
	}
}
