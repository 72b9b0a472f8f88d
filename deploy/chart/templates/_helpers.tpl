{{/* Labels of every object; takes {root, component}. */}}
{{- define "pullpass.labels" -}}
{{ include "pullpass.selector" . }}
app.kubernetes.io/part-of: pullpass
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- end }}

{{/* The labels that tell one workload's pods from all others; takes {root, component}. */}}
{{- define "pullpass.selector" -}}
app.kubernetes.io/name: pullpass
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* The image of a component; takes {root, component}. */}}
{{- define "pullpass.image" -}}
{{ .root.Values.image.registry }}/{{ .component }}:{{ .root.Values.image.tag | default .root.Chart.AppVersion }}
{{- end }}

{{/* Arguments that both daemons take; takes the root. */}}
{{- define "pullpass.arguments" -}}
- --namespace={{ .Release.Namespace }}
- --pull-secret-name={{ .Values.pullSecrets.name }}
{{- with .Values.clusterName }}
- --cluster-name={{ . }}
{{- end }}
{{- with .Values.policy.systemNamespaces }}
- --system-namespaces={{ join "," . }}
{{- end }}
- --log-format={{ .Values.logs.format }}
- --log-filter={{ .Values.logs.filter }}
{{- end }}

{{/*
What the pods of all workloads have in common; takes {root, values}. No user is set: the images name a numeric one, and
platforms that assign users of their own (OpenShift) refuse a fixed one.
*/}}
{{- define "pullpass.pod" -}}
automountServiceAccountToken: true
enableServiceLinks: false
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  seccompProfile:
    type: RuntimeDefault
{{- end }}

{{/* Pods of one workload on different nodes and in different zones where there are any; takes {root, component}. */}}
{{- define "pullpass.spread" -}}
topologySpreadConstraints:
  {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - topologyKey: {{ . }}
    maxSkew: 1
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "pullpass.selector" $ | nindent 8 }}
    matchLabelKeys: [pod-template-hash]
  {{- end }}
{{- end }}

{{/* Security context of every container. */}}
{{- define "pullpass.container-security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* Probes of every daemon, on its port `admin`. */}}
{{- define "pullpass.probes" -}}
startupProbe:
  httpGet: {path: /livez, port: admin}
  periodSeconds: 1
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /livez, port: admin}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
readinessProbe:
  httpGet: {path: /readyz, port: admin}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 2
{{- end }}

{{/* The node agent's namespace. Registries never select it, whether it is there or not. */}}
{{- define "pullpass.nodes-namespace" -}}
pullpass-nodes
{{- end }}

{{/* The Secrets that nodes read, as the items of a list. */}}
{{- define "pullpass.bundles" -}}
pullpass-nodes{{ if eq .Values.nodeAgent.mode "credentialProvider" }}, pullpass-nodes-restricted{{ end }}
{{- end }}

{{/* Where kubelet's docker config file is, on the node. */}}
{{- define "pullpass.docker-config-directory" -}}
{{ .Values.nodeAgent.dockerConfig.directory | default .Values.nodeAgent.kubeletRootDirectory }}
{{- end }}

{{/* The directory that the container runtime reads about registries' hosts; takes the root. */}}
{{- define "pullpass.runtime-directory" -}}
{{- with .Values.nodeAgent.runtimeTrust -}}
{{ .directory | default (ternary "/etc/containers/certs.d" "/etc/containerd/certs.d" (eq .runtime "CRI-O")) }}
{{- end }}
{{- end }}

{{/* Further arguments of the controller; takes the root. */}}
{{- define "pullpass.controller-arguments" -}}
{{ include "pullpass.arguments" . }}
{{- if not .Values.pullSecrets.enabled }}
- --pull-secrets=false
{{- end }}
{{- if .Values.nodeAgent.enabled }}
- --nodes={{ .Values.nodeAgent.mode }}
{{- if eq .Values.nodeAgent.mode "credentialProvider" }}
{{- with .Values.nodeAgent.credentialProvider.ports }}
- --provider-ports={{ join "," . }}
{{- end }}
{{- end }}
{{- if .Values.nodeAgent.withdraw }}
- --withdraw-nodes
{{- end }}
{{- if .Values.nodeAgent.startupTaint }}
- --startup-taint
{{- end }}
{{- end }}
{{- end }}
