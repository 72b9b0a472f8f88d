// Command kubelet-match answers, with kubelet's own code, which entries of a
// docker config an image is pulled with.
//
// It reads one JSON object a line, {"image": "…", "keys": ["…", …]}, and writes
// one a line in return: {"repository": "…", "matched": [2, 0]}, where matched
// holds positions in keys in the order in which kubelet tries them, or
// {"error": "…"} where kubelet cannot read the image.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"

	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/credentialprovider"
	"k8s.io/kubernetes/pkg/util/parsers"
)

type question struct {
	Image string   `json:"image"`
	Keys  []string `json:"keys"`
}

type answer struct {
	Repository string `json:"repository,omitempty"`
	Matched    []int  `json:"matched"`
	Error      string `json:"error,omitempty"`
}

func main() {
	if err := quietKubelet(); err != nil {
		fail(err)
	}
	if err := run(os.Stdin, os.Stdout); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "kubelet-match:", err)
	os.Exit(1)
}

// Kubelet logs a line for each key that it drops, and most tests ask for those.
func quietKubelet() error {
	flags := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(flags)
	klog.SetOutput(io.Discard)
	return errors.Join(flags.Set("logtostderr", "false"), flags.Set("stderrthreshold", "FATAL"))
}

func run(in io.Reader, out io.Writer) error {
	questions := json.NewDecoder(bufio.NewReader(in))
	buffered := bufio.NewWriter(out)
	answers := json.NewEncoder(buffered)
	for {
		var asked question
		switch err := questions.Decode(&asked); {
		case errors.Is(err, io.EOF):
			return buffered.Flush()
		case err != nil:
			return fmt.Errorf("reading a question: %w", err)
		}
		answered, err := ask(asked)
		if err != nil {
			return err
		}
		if err := answers.Encode(answered); err != nil {
			return fmt.Errorf("writing an answer: %w", err)
		}
	}
}

func ask(asked question) (answer, error) {
	repository, _, _, err := parsers.ParseImageName(asked.Image)
	if err != nil {
		return answer{Matched: []int{}, Error: err.Error()}, nil
	}
	// The position travels as the user name. One Add for each key keeps equal
	// keys in the order in which they were given.
	keyring := &credentialprovider.BasicDockerKeyring{}
	for position, key := range asked.Keys {
		entry := credentialprovider.DockerConfigEntry{Username: strconv.Itoa(position), Password: "-"}
		keyring.Add(nil, credentialprovider.DockerConfig{key: entry})
	}
	found, _ := keyring.Lookup(repository)
	matched := make([]int, 0, len(found))
	for _, credential := range found {
		position, err := strconv.Atoi(credential.Username)
		if err != nil {
			return answer{}, fmt.Errorf("kubelet answered with a user name that was not given: %w", err)
		}
		matched = append(matched, position)
	}
	return answer{Repository: repository, Matched: matched}, nil
}
