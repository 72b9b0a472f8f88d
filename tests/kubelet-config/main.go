// Command kubelet-config reads a credential provider configuration as kubelet
// does when it starts, with the code of one Kubernetes release: the module
// files beside this one choose it. Given an image, it also asks the plugins
// for it as kubelet does for a pod.
//
//	kubelet-config CONFIGURATION BIN-DIRECTORY [IMAGE NAMESPACE TOKEN]
//
// What kubelet would stop with goes to standard error, and the exit code is 1.
// The logins that it would pull with go to standard output, as a list.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	authentication "k8s.io/api/authentication/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/credentialprovider/plugin"
)

type login struct {
	Username string `json:"username"`
	Password string `json:"password"`
}

func main() {
	// Of a plugin that fails, kubelet only logs.
	klog.LogToStderr(true)
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 2 && len(args) != 5 {
		return fmt.Errorf("usage: kubelet-config CONFIGURATION BIN-DIRECTORY [IMAGE NAMESPACE TOKEN]")
	}
	token := ""
	if len(args) == 5 {
		token = args[4]
	}
	err := plugin.RegisterCredentialProviderPlugins(args[0], args[1],
		func(_, _ string, request *authentication.TokenRequest) (*authentication.TokenRequest, error) {
			request.Status.Token = token
			return request, nil
		},
		func(namespace, name string) (*core.ServiceAccount, error) {
			return &core.ServiceAccount{ObjectMeta: meta.ObjectMeta{Namespace: namespace, Name: name, UID: "account"}}, nil
		},
	)
	if err != nil || len(args) == 2 {
		return err
	}
	account := "default"
	if token == "" {
		// A static pod has none.
		account = ""
	}
	found, _ := plugin.NewExternalCredentialProviderDockerKeyring(args[3], "pod", "pod", account).Lookup(args[2])
	logins := []login{}
	for _, each := range found {
		logins = append(logins, login{each.Username, each.Password})
	}
	return json.NewEncoder(os.Stdout).Encode(logins)
}
