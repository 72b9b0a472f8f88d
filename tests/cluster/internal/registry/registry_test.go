package registry

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"
)

func TestAChangedPasswordReplacesTheOldOneOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "htpasswd")
	for _, user := range []User{{"puller", "first"}, {"pull", "kept"}, {"puller", "second"}} {
		if err := SetPassword(path, user); err != nil {
			t.Fatal(err)
		}
	}
	hashes := readUsers(t, path)
	if len(hashes) != 2 {
		t.Fatalf("the file has %d users", len(hashes))
	}
	for user, password := range map[string]string{"puller": "second", "pull": "kept"} {
		if err := bcrypt.CompareHashAndPassword([]byte(hashes[user]), []byte(password)); err != nil {
			t.Errorf("%s: %v", user, err)
		}
	}
}

func TestWhatTheFilesCannotHoldIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "htpasswd")
	for _, user := range []User{
		{"", "p"}, {"a:b", "p"}, {"a\nb", "p"}, {"a'b", "p"},
		{"a", ""}, {"a", "p\nq"}, {"a", "p'q"}, {"a", strings.Repeat("p", 73)},
	} {
		if err := SetPassword(path, user); err == nil {
			t.Errorf("%q was accepted", user)
		}
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("a refused user left a file: %v", err)
	}
}

func TestAChangedPasswordIsInTheEnvironmentFileToo(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "registry.env")
	env := Env{
		Registry: "198.18.20.1:26005",
		Users:    [2]User{{"puller", "one"}, {"other", "two"}},
		CA:       "/a/ca.crt",
		HTPasswd: filepath.Join(dir, "htpasswd"),
	}
	if err := env.Write(path); err != nil {
		t.Fatal(err)
	}
	if err := ChangePassword(path, User{"other", "three"}); err != nil {
		t.Fatal(err)
	}
	want := env
	want.Users[1].Password = "three"
	if got, err := ReadEnv(path); err != nil || got != want {
		t.Errorf("got %v, %v", got, err)
	}
	if err := bcrypt.CompareHashAndPassword([]byte(readUsers(t, env.HTPasswd)["other"]), []byte("three")); err != nil {
		t.Error(err)
	}
}

func readUsers(t *testing.T, path string) map[string]string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	hashes := map[string]string{}
	for line := range strings.Lines(string(content)) {
		name, hash, _ := strings.Cut(strings.TrimSpace(line), ":")
		hashes[name] = hash
	}
	return hashes
}
