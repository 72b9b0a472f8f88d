// Package cache keeps what is costly to build outside the checkout, under the
// user's cache directory, so that a second checkout does not build it again.
//
// An entry is a directory named by a hash of its inputs. It is built under a
// temporary name and renamed when it is complete, with a manifest of its
// files' sizes and checksums, so that a damaged entry is noticed and rebuilt.
package cache

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"pullpass.dev/tests/cluster/internal/filelock"
)

const manifestName = "manifest.json"

// Entries that nobody has used for this long belong to inputs of the past.
const forgetAfter = 30 * 24 * time.Hour

// Cache is a directory of entries.
type Cache struct {
	dir string
	// say tells a person what is going on.
	say func(format string, args ...any)
}

// Open returns the user's cache: $XDG_CACHE_HOME/pullpass, or
// ~/.cache/pullpass. Messages for people go to say.
func Open(say func(format string, args ...any)) (*Cache, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return nil, fmt.Errorf("no cache directory: set HOME or XDG_CACHE_HOME: %w", err)
	}
	return In(filepath.Join(dir, "pullpass"), say), nil
}

// In returns a cache in the given directory.
func In(dir string, say func(format string, args ...any)) *Cache {
	return &Cache{dir: dir, say: say}
}

// Key hashes what goes into an entry: names with values, in that order.
type Key struct{ inputs string }

// Add adds an input.
func (k *Key) Add(name, value string) {
	k.inputs += fmt.Sprintf("%d %s %d %s\n", len(name), name, len(value), value)
}

// AddFile adds a file's content under its base name.
func (k *Key) AddFile(path string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	k.Add(filepath.Base(path), string(content))
	return nil
}

// String is the key as a directory's name.
func (k Key) String() string {
	sum := sha256.Sum256([]byte(k.inputs))
	return hex.EncodeToString(sum[:12])
}

// Entry is something to be found in the cache, or built into it.
type Entry struct {
	// Name groups the entries that differ only in their inputs.
	Name string
	Key  Key
	// Build fills an empty directory.
	Build func(dir string) error
}

// Ensure returns the directory of an entry: the one that is there, if all its
// files are as they were built, or else a new one. Only one process builds an
// entry of a name at a time; the others wait for it.
func (c *Cache) Ensure(entry Entry) (string, error) {
	group := filepath.Join(c.dir, entry.Name)
	final := filepath.Join(group, entry.Key.String())
	if verify(final) == nil {
		markUsed(final)
		return final, nil
	}
	lock, err := filelock.Acquire(filepath.Join(group, ".lock"), func() {
		c.say("%s: another process is building it, waiting for that", entry.Name)
	})
	if err != nil {
		return "", err
	}
	defer lock.Release()
	switch err := verify(final); {
	case err == nil:
		return final, nil
	case !errors.Is(err, fs.ErrNotExist):
		c.say("%s: the cached copy is damaged (%v), building it again", entry.Name, err)
	}
	if err := c.tidy(group); err != nil {
		return "", err
	}
	if err := os.RemoveAll(final); err != nil {
		return "", err
	}
	unfinished, err := os.MkdirTemp(group, "unfinished-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(unfinished)
	if err := os.Chmod(unfinished, 0o755); err != nil {
		return "", err
	}
	if err := entry.Build(unfinished); err != nil {
		return "", fmt.Errorf("build %s: %w", entry.Name, err)
	}
	if err := writeManifest(unfinished); err != nil {
		return "", err
	}
	if err := os.Rename(unfinished, final); err != nil {
		return "", err
	}
	return final, nil
}

// tidy removes what killed builds and long past inputs have left. The caller
// holds the group's lock.
func (c *Cache) tidy(group string) error {
	entries, err := os.ReadDir(group)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil || !entry.IsDir() {
			continue
		}
		abandoned := strings.HasPrefix(entry.Name(), "unfinished-")
		used := info.ModTime()
		if manifest, err := os.Stat(filepath.Join(group, entry.Name(), manifestName)); err == nil {
			used = manifest.ModTime()
		}
		if abandoned || time.Since(used) > forgetAfter {
			if err := os.RemoveAll(filepath.Join(group, entry.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

func markUsed(dir string) {
	now := time.Now()
	// It only postpones the day on which the entry is forgotten.
	_ = os.Chtimes(filepath.Join(dir, manifestName), now, now)
}

type fileRecord struct {
	Size   int64       `json:"size"`
	Mode   fs.FileMode `json:"mode"`
	SHA256 string      `json:"sha256,omitempty"`
	Link   string      `json:"link,omitempty"`
}

func writeManifest(dir string) error {
	files, err := inventory(dir)
	if err != nil {
		return err
	}
	encoded, err := json.MarshalIndent(files, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, manifestName), encoded, 0o644)
}

// verify returns an error that wraps fs.ErrNotExist if there is no entry.
func verify(dir string) error {
	if _, err := os.Stat(dir); err != nil {
		return err
	}
	encoded, err := os.ReadFile(filepath.Join(dir, manifestName))
	if err != nil {
		return errors.New("it has no manifest")
	}
	var recorded map[string]fileRecord
	if err := json.Unmarshal(encoded, &recorded); err != nil {
		return fmt.Errorf("its manifest cannot be read: %v", err)
	}
	found, err := inventory(dir)
	if err != nil {
		return err
	}
	for path, record := range recorded {
		if found[path] != record {
			return fmt.Errorf("%s is missing or has changed", path)
		}
	}
	if len(found) != len(recorded) {
		return errors.New("it has files that do not belong to it")
	}
	return nil
}

func inventory(dir string) (map[string]fileRecord, error) {
	files := map[string]fileRecord{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() || path == filepath.Join(dir, manifestName) {
			return nil
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		record := fileRecord{Size: info.Size(), Mode: info.Mode()}
		switch {
		case entry.Type()&fs.ModeSymlink != 0:
			if record.Link, err = os.Readlink(path); err != nil {
				return err
			}
		case entry.Type().IsRegular():
			if record.SHA256, err = checksum(path); err != nil {
				return err
			}
		}
		relative, err := filepath.Rel(dir, path)
		files[relative] = record
		return err
	})
	return files, err
}

func checksum(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, file); err != nil {
		return "", err
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}
