// Package reservation shares the slots of a machine among the clusters of all
// checkouts. A reservation is a file under /run, so a reboot ends it.
package reservation

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"pullpass.dev/tests/cluster/internal/address"
	"pullpass.dev/tests/cluster/internal/filelock"
	"pullpass.dev/tests/cluster/internal/network"
)

// RuntimeDir holds reservations and locks.
const RuntimeDir = "/run/pullpass-cluster"

// Slots is a directory of reservations.
type Slots struct {
	dir string
	// usable tells what, if anything, keeps a plan from being used.
	usable func(address.Plan) error
}

// Machine returns the slots of this machine.
func Machine() Slots { return Slots{dir: RuntimeDir, usable: usable} }

// Of returns the slot that a cluster has reserved.
func (s Slots) Of(clusterDir string) (slot int, found bool, err error) {
	owners, err := s.owners()
	if err != nil {
		return 0, false, err
	}
	for slot, owner := range owners {
		if owner == clusterDir {
			return slot, true, nil
		}
	}
	return 0, false, nil
}

// Taken tells whether any cluster has reserved the slot.
func (s Slots) Taken(slot int) (bool, error) {
	owners, err := s.owners()
	_, taken := owners[slot]
	return taken, err
}

// Clusters lists the directories of all clusters that have a slot.
func (s Slots) Clusters() ([]string, error) {
	owners, err := s.owners()
	if err != nil {
		return nil, err
	}
	var dirs []string
	for _, owner := range owners {
		dirs = append(dirs, owner)
	}
	return dirs, nil
}

// Reserve reserves a slot for a cluster that has none, among those with a
// link or among those without.
func (s Slots) Reserve(clusterDir string, withLink bool) (address.Plan, error) {
	lock, err := s.lock()
	if err != nil {
		return address.Plan{}, err
	}
	defer lock.Release()
	owners, err := s.owners()
	if err != nil {
		return address.Plan{}, err
	}
	first, end := address.FullSlots, address.Slots
	if withLink {
		first, end = 0, address.FullSlots
	}
	var reasons []string
	for slot := first; slot < end; slot++ {
		if owner, taken := owners[slot]; taken {
			reasons = append(reasons, fmt.Sprintf("slot %d is used by %s", slot, owner))
			continue
		}
		plan, err := address.ForSlot(slot)
		if err != nil {
			return address.Plan{}, err
		}
		if err := s.usable(plan); err != nil {
			reasons = append(reasons, fmt.Sprintf("slot %d: %v", slot, err))
			continue
		}
		return plan, s.record(slot, clusterDir)
	}
	return address.Plan{}, fmt.Errorf("no addresses or ports are left for another cluster: take one down, or delete the file in %s of one whose checkout is gone\n%s",
		s.dir, strings.Join(reasons, "\n"))
}

// Others read without the lock and must never see half a record.
func (s Slots) record(slot int, clusterDir string) error {
	unfinished := filepath.Join(s.dir, "unfinished")
	if err := os.WriteFile(unfinished, []byte(clusterDir), 0o644); err != nil {
		return err
	}
	return os.Rename(unfinished, s.file(slot))
}

// Release gives up a slot.
func (s Slots) Release(slot int) error {
	lock, err := s.lock()
	if err != nil {
		return err
	}
	defer lock.Release()
	if err := os.Remove(s.file(slot)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Tidy removes the directory if nothing is reserved or locked any more.
func (s Slots) Tidy() error {
	if _, err := os.Stat(s.dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	lock, err := s.lock()
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil || len(entries) > 1 {
		lock.Release()
		return err
	}
	if err := lock.Remove(); err != nil {
		return err
	}
	// Somebody who comes just now may already use it.
	_ = os.Remove(s.dir)
	return nil
}

func (s Slots) lock() (*filelock.Lock, error) {
	return filelock.Acquire(filepath.Join(s.dir, "slots.lock"), nil)
}

func (s Slots) file(slot int) string { return filepath.Join(s.dir, slotPrefix+strconv.Itoa(slot)) }

const slotPrefix = "slot-"

func (s Slots) owners() (map[int]string, error) {
	entries, err := os.ReadDir(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	owners := map[int]string{}
	for _, entry := range entries {
		number, isSlot := strings.CutPrefix(entry.Name(), slotPrefix)
		slot, err := strconv.Atoi(number)
		if !isSlot || err != nil {
			continue
		}
		owner, err := os.ReadFile(filepath.Join(s.dir, entry.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		owners[slot] = string(owner)
	}
	return owners, nil
}

func usable(plan address.Plan) error {
	for _, port := range plan.Ports() {
		listener, err := net.Listen("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			return fmt.Errorf("port %d is in use", port)
		}
		_ = listener.Close()
	}
	if !plan.HasLink() {
		return nil
	}
	other, err := network.Taken(plan)
	if err != nil {
		return err
	}
	if other != "" {
		return fmt.Errorf("interface %s has an address in %s", other, plan.Block)
	}
	return nil
}
