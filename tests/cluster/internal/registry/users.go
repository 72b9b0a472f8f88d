package registry

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/crypto/bcrypt"
)

// User may pull and push everything.
type User struct{ Name, Password string }

// SetPassword adds a user to a file in the format of Apache's htpasswd, or
// changes the user's password there. The others stay as they are.
func SetPassword(path string, user User) error {
	if user.Name == "" || strings.ContainsAny(user.Name, ":\n'") {
		return fmt.Errorf("registry user %q: a name is not empty and has no colon, quote or line break", user.Name)
	}
	if user.Password == "" || strings.ContainsAny(user.Password, "\n'") {
		return errors.New("registry password: it must not be empty or have quotes or line breaks")
	}
	// The registry checks it with every request of every pull, so the
	// lowest cost is enough for a password that only tests know.
	hash, err := bcrypt.GenerateFromPassword([]byte(user.Password), bcrypt.MinCost)
	if err != nil {
		return fmt.Errorf("registry password: %w", err)
	}
	content, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var lines strings.Builder
	for line := range strings.Lines(string(content)) {
		if !strings.HasPrefix(line, user.Name+":") {
			lines.WriteString(line)
		}
	}
	fmt.Fprintf(&lines, "%s:%s\n", user.Name, hash)
	return replaceFile(path, lines.String())
}

// Readers see either the old or the new content.
func replaceFile(path, content string) error {
	unfinished := path + ".unfinished"
	if err := os.WriteFile(unfinished, []byte(content), 0o600); err != nil {
		return err
	}
	return os.Rename(unfinished, path)
}
