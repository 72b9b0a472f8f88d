package filelock

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestOnlyOneHoldsALock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "dir", "lock")
	first, err := Acquire(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	waiting := make(chan struct{})
	acquired := make(chan error, 1)
	go func() {
		second, err := Acquire(path, func() { close(waiting) })
		if err == nil {
			second.Release()
		}
		acquired <- err
	}()
	await(t, waiting)
	select {
	case <-acquired:
		t.Fatal("two hold the lock at once")
	default:
	}
	first.Release()
	if err := <-acquired; err != nil {
		t.Fatal(err)
	}
}

func TestALockThatIsRemovedWhileOthersWaitIsTakenAnew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first, err := Acquire(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	waiting := make(chan struct{})
	acquired := make(chan *Lock, 1)
	go func() {
		second, err := Acquire(path, func() { close(waiting) })
		if err != nil {
			t.Error(err)
		}
		acquired <- second
	}()
	await(t, waiting)
	if err := first.Remove(); err != nil {
		t.Fatal(err)
	}
	second := <-acquired
	if second == nil {
		t.FailNow()
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the second holder locks a file that nobody else can find: %v", err)
	}
	second.Release()
}

func await(t *testing.T, event <-chan struct{}) {
	t.Helper()
	select {
	case <-event:
	case <-time.After(30 * time.Second):
		t.Fatal("nobody waited for the lock")
	}
}
