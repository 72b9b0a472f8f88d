{{/* The controller's identity, as a condition that lets every other request pass at the cost of one comparison. */}}
{{- define "pullpass.fence.identity" -}}
- name: made-by-the-controller
  expression: request.userInfo.username == "system:serviceaccount:{{ .Release.Namespace }}:pullpass-controller"
{{- end }}

{{/* Binds a policy of the fence under its own name; takes {root, component, policy}. */}}
{{- define "pullpass.fence.binding" -}}
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: {{ .policy }}
  labels:
    {{- include "pullpass.labels" . | nindent 4 }}
spec:
  policyName: {{ .policy }}
  validationActions: [Deny]
{{- end }}

{{/*
What the object was before, where it was: metadata that somebody else has put there must not stop the controller from
writing, and only what the controller itself would add is judged.
*/}}
{{- define "pullpass.fence.metadata-variables" -}}
- name: labelsBefore
  expression: "request.operation == 'UPDATE' ? oldObject.metadata.?labels.orValue({}) : {}"
- name: annotationsBefore
  expression: "request.operation == 'UPDATE' ? oldObject.metadata.?annotations.orValue({}) : {}"
- name: ownersBefore
  expression: "request.operation == 'UPDATE' ? oldObject.metadata.?ownerReferences.orValue([]) : []"
- name: finalizersBefore
  expression: "request.operation == 'UPDATE' ? oldObject.metadata.?finalizers.orValue([]) : []"
{{- end }}

{{/*
Metadata that other controllers act upon: labels make a Secret a cluster's credentials (Istio, Argo CD), annotations
have it copied elsewhere or filled with a token, owners and finalizers hold up or cause somebody else's deletions.
*/}}
{{- define "pullpass.fence.metadata-validations" -}}
- expression: >-
    request.operation == "DELETE" || object.metadata.?labels.orValue({}).all(key,
    key.startsWith("pullpass.dev/") ||
    key in ["name", "component", "part-of", "version", "managed-by"].map(label, "app.kubernetes.io/" + label) ||
    (key in variables.labelsBefore && variables.labelsBefore[key] == object.metadata.labels[key]))
  message: The Pullpass controller sets no labels but pullpass.dev/* and app.kubernetes.io/*.
  reason: Forbidden
- expression: >-
    request.operation == "DELETE" || object.metadata.?annotations.orValue({}).all(key,
    key.startsWith("pullpass.dev/") ||
    (key in variables.annotationsBefore && variables.annotationsBefore[key] == object.metadata.annotations[key]))
  message: The Pullpass controller sets no annotations but pullpass.dev/*.
  reason: Forbidden
- expression: >-
    request.operation == "DELETE" || object.metadata.?finalizers.orValue([]) == variables.finalizersBefore
  message: The Pullpass controller neither adds nor removes finalizers.
  reason: Forbidden
{{- end }}
