package artifact

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// Often enough to see that it goes on.
const progressInterval = 20 * time.Second

// runWithProgress runs a command that prints what it works on line by line,
// such as `go build -v`, and reports where it is. Its error carries the last
// lines that were printed.
func (s Source) runWithProgress(cmd *exec.Cmd, what string) error {
	reader, writer := io.Pipe()
	cmd.Stdout, cmd.Stderr = writer, writer
	var mutex sync.Mutex
	var count int
	var tail []string
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		lines := bufio.NewScanner(reader)
		for lines.Scan() {
			mutex.Lock()
			count++
			tail = append(tail, lines.Text())
			tail = tail[max(0, len(tail)-20):]
			mutex.Unlock()
		}
		_, _ = io.Copy(io.Discard, reader)
	}()
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() {
		err := cmd.Wait()
		_ = writer.Close()
		<-drained
		done <- err
	}()
	ticker := time.NewTicker(progressInterval)
	defer ticker.Stop()
	for {
		select {
		case err := <-done:
			if err != nil {
				return fmt.Errorf("%w:\n%s", err, strings.Join(tail, "\n"))
			}
			return nil
		case <-ticker.C:
			mutex.Lock()
			current := "starting"
			if count > 0 {
				current = tail[len(tail)-1]
			}
			s.Say("%s: %s so far, %d packages done, now at %s", what, time.Since(start).Round(time.Second), count, current)
			mutex.Unlock()
		}
	}
}

// run runs a command whose output only matters if it fails.
func run(cmd *exec.Cmd) error {
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, strings.TrimSpace(output.String()))
	}
	return nil
}
