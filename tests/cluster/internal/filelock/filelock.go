// Package filelock locks by file, across processes, for as long as the
// process lives: the kernel releases the lock of a process that was killed.
package filelock

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Lock is a held lock.
type Lock struct{ file *os.File }

// Acquire waits until the lock is free. If it is not free at once, waiting is
// called first, so that a person can be told what the wait is for.
func Acquire(path string, waiting func()) (*Lock, error) {
	for {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return nil, err
		}
		file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if os.IsNotExist(err) {
			// The last holder has removed the directory in between.
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := lock(file, waiting); err != nil {
			_ = file.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if stillThere(file, path) {
			return &Lock{file: file}, nil
		}
		// It was removed while we waited: whoever comes next locks another file.
		_ = file.Close()
	}
}

// Release lets the next one in.
func (l *Lock) Release() { _ = l.file.Close() }

// Remove deletes the lock's file and lets the next one in.
func (l *Lock) Remove() error {
	err := os.Remove(l.file.Name())
	l.Release()
	if os.IsNotExist(err) {
		return nil
	}
	return err
}

func lock(file *os.File, waiting func()) error {
	fd := int(file.Fd())
	err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
	if err != unix.EWOULDBLOCK {
		return err
	}
	if waiting != nil {
		waiting()
	}
	for {
		if err = unix.Flock(fd, unix.LOCK_EX); err != unix.EINTR {
			return err
		}
	}
}

func stillThere(file *os.File, path string) bool {
	held, err := file.Stat()
	if err != nil {
		return false
	}
	named, err := os.Stat(path)
	return err == nil && os.SameFile(held, named)
}
