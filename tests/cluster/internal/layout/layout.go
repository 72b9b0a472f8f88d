// Package layout says where everything of a cluster lies on disk.
package layout

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
)

// DefaultName is the cluster that a command means when it is given no name.
// Its files lie directly in the checkout's .cluster directory.
const DefaultName = "default"

// A name becomes a directory and part of a file name.
var namePattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)

// ownEntries are the names that a cluster uses directly in its directory.
// The default cluster shares that directory with the named ones, so no
// cluster can be called like one of these.
var ownEntries = []string{
	"audit.log", "bin", "config", "etcd", "kubeconfig", "logs",
	"nodes", "pki", "registry", "registry.env", "registry.env.unfinished", "run", "state.json", "state.json.unfinished",
}

// Cluster is one cluster's name and the paths that follow from it.
type Cluster struct {
	Name string
	// Dir is the absolute directory that holds everything of the cluster.
	Dir string
}

// Root is the directory under which all clusters of a checkout lie.
func Root(checkout string) string { return filepath.Join(checkout, ".cluster") }

// Named returns the cluster of that name in a checkout. An empty name means
// the default cluster. The error says what a name may look like.
func Named(checkout, name string) (Cluster, error) {
	if name == "" || name == DefaultName {
		return Cluster{Name: DefaultName, Dir: Root(checkout)}, nil
	}
	if !namePattern.MatchString(name) {
		return Cluster{}, fmt.Errorf("cluster name %q: use up to 32 lower-case letters, digits and hyphens, beginning and ending with a letter or digit", name)
	}
	if slices.Contains(ownEntries, name) {
		return Cluster{}, fmt.Errorf("cluster name %q is taken by the default cluster's own files: choose another", name)
	}
	return Cluster{Name: name, Dir: filepath.Join(Root(checkout), name)}, nil
}

// Existing lists the clusters of a checkout that have files, the default first.
func Existing(checkout string) ([]Cluster, error) {
	root := Root(checkout)
	entries, err := os.ReadDir(root)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var clusters []Cluster
	byDefault := Cluster{Name: DefaultName, Dir: root}
	if own, err := byDefault.OwnFiles(); err != nil {
		return nil, err
	} else if len(own) > 0 {
		clusters = append(clusters, byDefault)
	}
	for _, entry := range entries {
		if cluster, err := Named(checkout, entry.Name()); err == nil && entry.IsDir() && cluster.Name != DefaultName {
			clusters = append(clusters, cluster)
		}
	}
	return clusters, nil
}

// Kubeconfig is the administrator's.
func (c Cluster) Kubeconfig() string { return filepath.Join(c.Dir, "kubeconfig") }

// RegistryEnv names the registry, its users and its CA as shell assignments.
func (c Cluster) RegistryEnv() string { return filepath.Join(c.Dir, "registry.env") }

// AuditLog holds one JSON object a line for every request to the API server.
func (c Cluster) AuditLog() string { return filepath.Join(c.Dir, "audit.log") }

// State records what the cluster is made of.
func (c Cluster) State() string { return filepath.Join(c.Dir, "state.json") }

// PKI holds certificates and keys.
func (c Cluster) PKI() string { return filepath.Join(c.Dir, "pki") }

// Etcd is etcd's data directory.
func (c Cluster) Etcd() string { return filepath.Join(c.Dir, "etcd") }

// Config holds the control plane's configuration files.
func (c Cluster) Config() string { return filepath.Join(c.Dir, "config") }

// Registry holds the registry's configuration, users and blobs.
func (c Cluster) Registry() string { return filepath.Join(c.Dir, "registry") }

// Bin holds commands that are bound to this cluster.
func (c Cluster) Bin() string { return filepath.Join(c.Dir, "bin") }

// Kubectl is kubectl for this cluster.
func (c Cluster) Kubectl() string { return filepath.Join(c.Bin(), "kubectl") }

// Node holds everything that a node keeps on disk.
func (c Cluster) Node(name string) string { return filepath.Join(c.Dir, "nodes", name) }

// Log is what a component writes to its standard output and error.
func (c Cluster) Log(component string) string {
	return filepath.Join(c.Dir, "logs", component+".log")
}

// PIDFile holds a component's process id, for people and tests; nothing here
// reads it back, since an id alone does not identify a process.
func (c Cluster) PIDFile(component string) string {
	return filepath.Join(c.Dir, "run", component+".pid")
}

// OwnFiles lists the files and directories of this cluster that exist, and
// none of another cluster.
func (c Cluster) OwnFiles() ([]string, error) {
	if c.Name != DefaultName {
		if _, err := os.Lstat(c.Dir); os.IsNotExist(err) {
			return nil, nil
		} else if err != nil {
			return nil, err
		}
		return []string{c.Dir}, nil
	}
	var found []string
	for _, entry := range ownEntries {
		path := filepath.Join(c.Dir, entry)
		if _, err := os.Lstat(path); err == nil {
			found = append(found, path)
		} else if !os.IsNotExist(err) {
			return nil, err
		}
	}
	rotated, err := filepath.Glob(filepath.Join(c.Dir, "audit-*.log"))
	if err != nil {
		return nil, err
	}
	return append(found, rotated...), nil
}

// Remove deletes this cluster's files, and .cluster itself once it is empty.
func (c Cluster) Remove() error {
	own, err := c.OwnFiles()
	if err != nil {
		return err
	}
	for _, path := range own {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	root := c.Dir
	if c.Name != DefaultName {
		root = filepath.Dir(c.Dir)
	}
	if entries, err := os.ReadDir(root); err == nil && len(entries) == 0 {
		return os.Remove(root)
	}
	return nil
}
