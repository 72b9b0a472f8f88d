package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"pullpass.dev/tests/cluster/internal/layout"
)

// state is what a cluster is, for as long as it has files.
type state struct {
	Slot   int    `json:"slot"`
	BootID string `json:"bootId"`
	// APIOnly clusters have no node and no registry.
	APIOnly bool `json:"apiOnly"`
	// Controllers tells whether the controller manager belongs to it.
	Controllers bool `json:"controllers"`
	// Nodes is how many nodes it has.
	Nodes int `json:"nodes"`
	// Configured is set once certificates and configuration are complete.
	Configured bool `json:"configured"`
	// ConfiguredNodes is for how many nodes that is so too.
	ConfiguredNodes int `json:"configuredNodes"`
}

func readState(cluster layout.Cluster) (state, bool, error) {
	content, err := os.ReadFile(cluster.State())
	if errors.Is(err, fs.ErrNotExist) {
		return state{}, false, nil
	}
	if err != nil {
		return state{}, false, err
	}
	var s state
	if err := json.Unmarshal(content, &s); err != nil {
		return state{}, false, fmt.Errorf("%s: %w", cluster.State(), err)
	}
	return s, true, nil
}

func (s state) write(cluster layout.Cluster) error {
	content, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(cluster.Dir, 0o755); err != nil {
		return err
	}
	unfinished := cluster.State() + ".unfinished"
	if err := os.WriteFile(unfinished, append(content, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(unfinished, cluster.State())
}
