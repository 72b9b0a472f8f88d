// Command benches is the yardstick: a webhook that does the same job as
// Pullpass's, written as a user of the usual libraries would write it.
package main

import (
	"flag"
	"fmt"
	"os"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"
)

func main() {
	port := flag.Int("port", webhook.DefaultPort, "port on the loopback address")
	certificates := flag.String("certificates", "", "directory with tls.crt and tls.key")
	flag.Parse()
	if err := serve(*port, *certificates); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func serve(port int, certificates string) error {
	ctrl.SetLogger(zap.New())
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		return err
	}
	server := webhook.NewServer(webhook.Options{Host: "127.0.0.1", Port: port, CertDir: certificates})
	server.Register("/inject", &webhook.Admission{Handler: &injector{
		decoder:    admission.NewDecoder(scheme),
		namespaces: namespaces(),
		enforcing:  sets.New[string](),
	}})
	return server.Start(ctrl.SetupSignalHandler())
}

// namespaces is what watches would have gathered: the namespaces that may use
// some registry, with the labels that decide about it.
func namespaces() map[string]map[string]string {
	all := map[string]map[string]string{"shop": {"kubernetes.io/metadata.name": "shop"}}
	for number := range 1000 {
		name := fmt.Sprintf("team-%d", number)
		all[name] = map[string]string{"kubernetes.io/metadata.name": name}
	}
	return all
}
