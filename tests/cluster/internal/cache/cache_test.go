package cache

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestAnEntryIsBuiltOnceAndFoundAgain(t *testing.T) {
	c, entry, builds := fixture(t)
	first := ensure(t, c, entry)
	second := ensure(t, c, entry)
	if first != second || builds.Load() != 1 {
		t.Errorf("built %d times, in %s and %s", builds.Load(), first, second)
	}
}

func TestOtherInputsMakeAnotherEntry(t *testing.T) {
	c, entry, builds := fixture(t)
	first := ensure(t, c, entry)
	entry.Key.Add("go", "1.99")
	second := ensure(t, c, entry)
	if first == second || builds.Load() != 2 {
		t.Errorf("built %d times, in %s and %s", builds.Load(), first, second)
	}
}

func TestInputsThatOnlyJoinToTheSameTextDiffer(t *testing.T) {
	var one, other Key
	one.Add("a", "b c")
	other.Add("a b", "c")
	if one.String() == other.String() {
		t.Error("different inputs have the same key")
	}
}

func TestADamagedEntryIsBuiltAgain(t *testing.T) {
	damages := map[string]func(dir string) error{
		"changed with the same size": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "program"), []byte("builT"), 0o755)
		},
		"shortened":      func(dir string) error { return os.Truncate(filepath.Join(dir, "program"), 1) },
		"removed":        func(dir string) error { return os.Remove(filepath.Join(dir, "program")) },
		"not executable": func(dir string) error { return os.Chmod(filepath.Join(dir, "program"), 0o644) },
		"no manifest":    func(dir string) error { return os.Remove(filepath.Join(dir, manifestName)) },
		"broken manifest": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, manifestName), []byte("{"), 0o644)
		},
		"link elsewhere": func(dir string) error {
			if err := os.Remove(filepath.Join(dir, "link")); err != nil {
				return err
			}
			return os.Symlink("/bin/true", filepath.Join(dir, "link"))
		},
		"another file": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "more"), nil, 0o644)
		},
	}
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			c, entry, builds := fixture(t)
			dir := ensure(t, c, entry)
			if err := damage(dir); err != nil {
				t.Fatal(err)
			}
			ensure(t, c, entry)
			if builds.Load() != 2 {
				t.Errorf("built %d times", builds.Load())
			}
			content, err := os.ReadFile(filepath.Join(dir, "program"))
			if err != nil || string(content) != "built" {
				t.Errorf("repaired to %q, %v", content, err)
			}
		})
	}
}

func TestAFailedBuildLeavesNothingBehind(t *testing.T) {
	c, entry, _ := fixture(t)
	broken := entry
	broken.Build = func(dir string) error {
		_ = os.WriteFile(filepath.Join(dir, "half"), nil, 0o644)
		return errors.New("no compiler")
	}
	if _, err := c.Ensure(broken); err == nil {
		t.Fatal("the failure was lost")
	}
	dir := ensure(t, c, entry)
	if _, err := os.Stat(filepath.Join(dir, "half")); !os.IsNotExist(err) {
		t.Errorf("the half-built file is there: %v", err)
	}
}

func TestTwoWhoNeedTheSameEntryBuildItOnce(t *testing.T) {
	c, entry, builds := fixture(t)
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			if _, err := c.Ensure(entry); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if builds.Load() != 1 {
		t.Errorf("built %d times", builds.Load())
	}
}

func TestWhatKilledBuildsAndThePastHaveLeftIsRemoved(t *testing.T) {
	c, entry, _ := fixture(t)
	old := ensure(t, c, entry)
	longAgo := time.Now().Add(-2 * forgetAfter)
	if err := os.Chtimes(filepath.Join(old, manifestName), longAgo, longAgo); err != nil {
		t.Fatal(err)
	}
	abandoned := filepath.Join(filepath.Dir(old), "unfinished-1")
	if err := os.Mkdir(abandoned, 0o755); err != nil {
		t.Fatal(err)
	}
	entry.Key.Add("go", "1.99")
	ensure(t, c, entry)
	for _, path := range []string{old, abandoned} {
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("%s is still there: %v", path, err)
		}
	}
}

func fixture(t *testing.T) (*Cache, Entry, *atomic.Int32) {
	builds := new(atomic.Int32)
	entry := Entry{Name: "tool", Build: func(dir string) error {
		builds.Add(1)
		if err := os.WriteFile(filepath.Join(dir, "program"), []byte("built"), 0o755); err != nil {
			return err
		}
		return os.Symlink("program", filepath.Join(dir, "link"))
	}}
	entry.Key.Add("source", "v1")
	return In(t.TempDir(), t.Logf), entry, builds
}

func ensure(t *testing.T, c *Cache, entry Entry) string {
	t.Helper()
	dir, err := c.Ensure(entry)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}
