package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"
)

const (
	pullSecret  = "pullpass"
	injectLabel = "pullpass.dev/inject"
)

// injector appends the pull secret's name to the pods of namespaces that may
// have it.
type injector struct {
	decoder    admission.Decoder
	namespaces map[string]map[string]string
	// enforcing holds the service accounts, as namespace/name, whose pods may
	// use only the Secrets that the account lists.
	enforcing sets.Set[string]
}

func (i *injector) Handle(_ context.Context, request admission.Request) admission.Response {
	pod := &corev1.Pod{}
	if err := i.decoder.Decode(request, pod); err != nil {
		return admission.Errored(http.StatusBadRequest, err)
	}
	reason := i.decide(request.Namespace, pod)
	if reason != "Injected" {
		return withReason(admission.Allowed(""), reason)
	}
	pod.Spec.ImagePullSecrets = append(pod.Spec.ImagePullSecrets, corev1.LocalObjectReference{Name: pullSecret})
	patched, err := json.Marshal(pod)
	if err != nil {
		return admission.Errored(http.StatusInternalServerError, err)
	}
	return withReason(admission.PatchResponseFromRaw(request.Object.Raw, patched), reason)
}

func (i *injector) decide(namespace string, pod *corev1.Pod) string {
	labels, granted := i.namespaces[namespace]
	account := pod.Spec.ServiceAccountName
	if account == "" {
		account = "default"
	}
	switch {
	case !granted:
		return "NothingGranted"
	case labels[injectLabel] == "false":
		return "NamespaceOptedOut"
	case pod.Labels[injectLabel] == "false":
		return "PodOptedOut"
	case pod.Annotations[corev1.MirrorPodAnnotationKey] != "":
		return "MirrorPod"
	case i.enforcing.Has(fmt.Sprintf("%s/%s", namespace, account)):
		return "MountableSecretsEnforced"
	case slices.Contains(pod.Spec.ImagePullSecrets, corev1.LocalObjectReference{Name: pullSecret}):
		return "AlreadyPresent"
	}
	return "Injected"
}

func withReason(response admission.Response, reason string) admission.Response {
	response.AuditAnnotations = map[string]string{"reason": reason}
	return response
}
