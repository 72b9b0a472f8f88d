// Command cluster runs local Kubernetes clusters for development and tests.
package main

import (
	"fmt"
	"os"
)

// It may be interrupted or killed at any moment: whatever is half done then,
// the next up completes and the next down removes.
func main() {
	if err := rootCommand().Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

// say tells a person what is going on, and leaves standard output to what
// programs read.
func say(format string, args ...any) { fmt.Fprintf(os.Stderr, "cluster: "+format+"\n", args...) }
