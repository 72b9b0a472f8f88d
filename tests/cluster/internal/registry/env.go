package registry

import (
	"fmt"
	"os"
	"strings"
)

// Env is what others need to know about the registry. It is kept as a file of
// shell assignments.
type Env struct {
	// Registry is address and port, as an image names it.
	Registry string
	Users    [2]User
	// CA and HTPasswd are paths.
	CA, HTPasswd string
}

func (e *Env) variables() []variable {
	return []variable{
		{"REGISTRY", &e.Registry},
		{"REGISTRY_USERNAME", &e.Users[0].Name},
		{"REGISTRY_PASSWORD", &e.Users[0].Password},
		{"REGISTRY_USERNAME_2", &e.Users[1].Name},
		{"REGISTRY_PASSWORD_2", &e.Users[1].Password},
		{"REGISTRY_CA", &e.CA},
		{"REGISTRY_HTPASSWD", &e.HTPasswd},
	}
}

type variable struct {
	name  string
	value *string
}

// Write writes the file for its owner only.
func (e Env) Write(path string) error {
	var content strings.Builder
	for _, v := range e.variables() {
		fmt.Fprintf(&content, "%s='%s'\n", v.name, *v.value)
	}
	return replaceFile(path, content.String())
}

// ReadEnv reads a file that Write has written.
func ReadEnv(path string) (Env, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return Env{}, err
	}
	values := map[string]string{}
	for line := range strings.Lines(string(content)) {
		name, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		if !ok {
			return Env{}, fmt.Errorf("%s: %q is no assignment", path, line)
		}
		values[name] = strings.Trim(value, "'")
	}
	var env Env
	for _, v := range env.variables() {
		*v.value = values[v.name]
	}
	return env, nil
}

// ChangePassword changes a user's password in the registry, and in the file
// if the user is one of the two that it names.
func ChangePassword(path string, user User) error {
	env, err := ReadEnv(path)
	if err != nil {
		return err
	}
	if err := SetPassword(env.HTPasswd, user); err != nil {
		return err
	}
	for i := range env.Users {
		if env.Users[i].Name == user.Name {
			env.Users[i].Password = user.Password
		}
	}
	return env.Write(path)
}
