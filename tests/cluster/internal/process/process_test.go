package process

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestAStartedComponentIsFoundAndStopped(t *testing.T) {
	dir := t.TempDir()
	if _, err := Start(dir, sleeper(dir, "first")); err != nil {
		t.Fatal(err)
	}
	if _, err := Start(dir, sleeper(dir, "second")); err != nil {
		t.Fatal(err)
	}
	first := awaitOne(t, dir, "first")
	second := awaitOne(t, dir, "second")
	if err := Stop([]Process{first}, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	if first.Alive() {
		t.Error("it lives on after it was stopped")
	}
	if !second.Alive() {
		t.Error("another component was stopped too")
	}
	if err := Kill([]Process{second}); err != nil {
		t.Fatal(err)
	}
	if left, err := Of(dir); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestWhatPrecedesHasAHigherPriorityThanItsStarter(t *testing.T) {
	if err := unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), -1); err != nil {
		t.Skip("this machine allows no higher priority: ", err)
	}
	dir := t.TempDir()
	for component, precedes := range map[string]bool{"first": true, "second": false} {
		command := sleeper(dir, component)
		command.Precedes = precedes
		pid, err := Start(dir, command)
		if err != nil {
			t.Fatal(err)
		}
		// The system call returns 20 less the nice value.
		priority, err := unix.Getpriority(unix.PRIO_PROCESS, pid)
		if err != nil {
			t.Fatal(err)
		}
		if is := priority == 30; is != precedes {
			t.Errorf("%s: priority %d", component, priority)
		}
		if err := Kill([]Process{awaitOne(t, dir, component)}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAProcessThatIgnoresTheRequestIsKilled(t *testing.T) {
	dir := t.TempDir()
	ready := filepath.Join(dir, "ready")
	command := Command{
		Component: "stubborn", Program: "sh", Path: "/bin/sh",
		// What is ignored stays so for the program that it becomes; a child
		// would be one more process to find, or not yet.
		Args: []string{"-c", `trap "" TERM; : >"$0"; exec sleep 3600`, ready},
		Log:  filepath.Join(dir, "log"),
	}
	if _, err := Start(dir, command); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool { _, err := os.Stat(ready); return err == nil })
	processes, err := Of(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := Stop(processes, 100*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if len(processes) != 1 || processes[0].Alive() {
		t.Errorf("still there: %v", processes)
	}
}

func TestAnotherProcessWithTheSameIDIsLeftAlone(t *testing.T) {
	dir := t.TempDir()
	if _, err := Start(dir, sleeper(dir, "bystander")); err != nil {
		t.Fatal(err)
	}
	bystander := awaitOne(t, dir, "bystander")
	recycled := bystander
	recycled.startTime--
	if err := Kill([]Process{recycled}); err != nil {
		t.Fatal(err)
	}
	if !bystander.Alive() {
		t.Error("a process was killed that only has the same id")
	}
	if err := Kill([]Process{bystander}); err != nil {
		t.Fatal(err)
	}
}

func TestAChildOfAComponentIsNotTheComponent(t *testing.T) {
	processes := []Process{
		{PID: 1, Component: "containerd", Program: "containerd"},
		{PID: 2, Component: "containerd", Program: "containerd-shim-runc-v2"},
	}
	found := Component(processes, "containerd", "containerd")
	if len(found) != 1 || found[0].PID != 1 {
		t.Errorf("found %v", found)
	}
}

func TestAStatusIsReadBehindAnyName(t *testing.T) {
	const rest = " 1 42 42 0 -1 4194560 100 0 0 0 1 2 3 4 20 0 1 0 777 1000 10 18446744073709551615"
	for stat, want := range map[string]status{
		"42 (a) b (c d) S" + rest: {startTime: 777},
		"42 (Z) Z" + rest:         {startTime: 777, ended: true},
	} {
		if got, err := parseStatus(stat); err != nil || got != want {
			t.Errorf("%s: got %v, %v", stat, got, err)
		}
	}
	if _, err := parseStatus("42 (a) S 1"); err == nil {
		t.Error("a shortened status was accepted")
	}
}

func TestTheLastAssignmentOfAVariableCounts(t *testing.T) {
	value, ok := variable([]byte("A=1\x00AB=2\x00A=3\x00"), "A")
	if !ok || value != "3" {
		t.Errorf("got %q, %v", value, ok)
	}
	if _, ok := variable([]byte("AB=2\x00"), "A"); ok {
		t.Error("a longer name was taken for the variable")
	}
}

func sleeper(dir, component string) Command {
	return Command{
		Component: component, Program: "sleep", Path: "/bin/sleep",
		Args: []string{"600"}, Log: filepath.Join(dir, component+".log"),
	}
}

func awaitOne(t *testing.T, dir, component string) Process {
	t.Helper()
	var found []Process
	await(t, func() bool {
		processes, err := Of(dir)
		if err != nil {
			t.Fatal(err)
		}
		found = Component(processes, component, "sleep")
		return len(found) == 1
	})
	return found[0]
}

func await(t *testing.T, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !condition(); {
		if time.Now().After(deadline) {
			t.Fatal("it did not happen within 30 s")
		}
		time.Sleep(10 * time.Millisecond)
	}
}
