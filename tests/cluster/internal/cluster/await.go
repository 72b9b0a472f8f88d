package cluster

import (
	"errors"
	"fmt"
	"time"

	"pullpass.dev/tests/cluster/internal/process"
)

// stop is an error that waiting cannot mend.
type stop struct{ error }

func (s stop) Unwrap() error { return s.error }

// part is a started component whose end makes further waiting pointless.
type part struct {
	name    string
	process process.Process
	// logged is the size of its log before it was started.
	logged int64
	// started is when this run has started it, or zero if it ran before.
	started time.Time
}

// await repeats a check until it succeeds. It gives up at the deadline, and
// as soon as a part that the check depends on has ended.
func (u *up) await(what string, patience time.Duration, parts []part, check func() error) error {
	deadline := time.Now().Add(patience)
	for {
		err := check()
		if err == nil {
			return nil
		}
		var final stop
		if errors.As(err, &final) {
			return final.error
		}
		for _, p := range parts {
			if !p.process.Alive() {
				log := u.Layout.Log(p.name)
				return fmt.Errorf("%s ended while we waited for %s:\n%s\nThe whole log is %s", p.name, what, tail(log, p.logged), log)
			}
		}
		if time.Now().After(deadline) {
			advice := ""
			for _, p := range parts {
				advice += "\nIts log is " + u.Layout.Log(p.name)
			}
			return fmt.Errorf("waited %s for %s in vain: %w%s", patience, what, err, advice)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
