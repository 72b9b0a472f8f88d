package reservation

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"pullpass.dev/tests/cluster/internal/address"
)

func TestClustersGetSlotsOfTheirOwnAlsoWhenTheyComeAtOnce(t *testing.T) {
	slots := allUsable(t)
	var mutex sync.Mutex
	owners := map[int]string{}
	var group sync.WaitGroup
	for _, dir := range []string{"/a", "/b", "/c", "/d", "/e", "/f"} {
		group.Go(func() {
			plan, err := slots.Reserve(dir, true)
			if err != nil {
				t.Error(err)
				return
			}
			mutex.Lock()
			defer mutex.Unlock()
			if other, taken := owners[plan.Slot]; taken {
				t.Errorf("%s and %s share slot %d", dir, other, plan.Slot)
			}
			owners[plan.Slot] = dir
		})
	}
	group.Wait()
	for slot, dir := range owners {
		if found, ok, err := slots.Of(dir); err != nil || !ok || found != slot {
			t.Errorf("%s: found slot %d (%v, %v), reserved %d", dir, found, ok, err, slot)
		}
	}
}

func TestOnlyAClusterWithALinkGetsAnAddressBlock(t *testing.T) {
	slots := allUsable(t)
	for _, withLink := range []bool{true, false} {
		plan, err := slots.Reserve("/c", withLink)
		if err != nil || plan.HasLink() != withLink {
			t.Errorf("asked for link %v, got slot %d: %v", withLink, plan.Slot, err)
		}
	}
}

func TestAReleasedSlotIsGivenAgain(t *testing.T) {
	slots := allUsable(t)
	first, err := slots.Reserve("/a", true)
	if err != nil {
		t.Fatal(err)
	}
	if err := slots.Release(first.Slot); err != nil {
		t.Fatal(err)
	}
	if _, found, err := slots.Of("/a"); found || err != nil {
		t.Errorf("found %v, %v", found, err)
	}
	second, err := slots.Reserve("/b", true)
	if err != nil || second.Slot != first.Slot {
		t.Errorf("got slot %d, %v", second.Slot, err)
	}
}

func TestAnUnusableSlotIsPassedOver(t *testing.T) {
	slots := allUsable(t)
	slots.usable = func(plan address.Plan) error {
		if plan.Slot == 0 {
			return errors.New("port 26000 is in use")
		}
		return nil
	}
	plan, err := slots.Reserve("/a", true)
	if err != nil || plan.Slot != 1 {
		t.Errorf("got slot %d, %v", plan.Slot, err)
	}
}

func TestWhenAllSlotsAreTakenTheErrorNamesTheOwners(t *testing.T) {
	slots := allUsable(t)
	for range address.FullSlots {
		if _, err := slots.Reserve("/owner", true); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := slots.Reserve("/late", true); err == nil || !strings.Contains(err.Error(), "/owner") {
		t.Errorf("got %v", err)
	}
}

func TestTidyLeavesNothingButKeepsWhatIsReserved(t *testing.T) {
	slots := allUsable(t)
	plan, err := slots.Reserve("/a", true)
	if err != nil {
		t.Fatal(err)
	}
	if err := slots.Tidy(); err != nil {
		t.Fatal(err)
	}
	if _, found, err := slots.Of("/a"); !found || err != nil {
		t.Errorf("the reservation is gone: %v", err)
	}
	if err := slots.Release(plan.Slot); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := slots.Tidy(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(slots.dir); !os.IsNotExist(err) {
		t.Errorf("the directory is still there: %v", err)
	}
}

func allUsable(t *testing.T) Slots {
	return Slots{
		dir:    filepath.Join(t.TempDir(), "run"),
		usable: func(address.Plan) error { return nil },
	}
}
