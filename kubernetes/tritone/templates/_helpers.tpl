{{/* Short enough for what is put behind it: the Job's hash, and what Kubernetes adds to a pod's name. */}}
{{- define "tritone.fullname" -}}
{{- $name := printf "%s-%s" .Release.Name .Chart.Name }}
{{- if contains .Chart.Name .Release.Name }}{{ $name = .Release.Name }}{{ end }}
{{- trunc 40 $name | trimSuffix "-" }}
{{- end }}

{{- define "tritone.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{ include "tritone.selectorLabels" . }}
{{- end }}

{{/* What never changes in the life of a release. */}}
{{- define "tritone.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "tritone.serverLabels" -}}
{{ include "tritone.selectorLabels" . }}
app.kubernetes.io/component: server
{{- end }}

{{- define "tritone.enginesLabels" -}}
{{ include "tritone.selectorLabels" . }}
app.kubernetes.io/component: engines
{{- end }}

{{- define "tritone.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default (printf "%s-%s" .Chart.AppVersion .Values.profile) }}
{{- end }}
{{- end }}

{{/* What the pods of the Deployment and of the Job have in common. */}}
{{- define "tritone.pod" -}}
serviceAccountName: {{ include "tritone.fullname" . }}
automountServiceAccountToken: false
# Else every Service of the namespace adds variables to the container.
enableServiceLinks: false
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  # Without it every start of a pod would go through all files of the volume.
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- $gpu := eq .Values.profile "gpu" }}
{{- if and $gpu .Values.gpu.runtimeClassName }}
runtimeClassName: {{ .Values.gpu.runtimeClassName }}
{{- end }}
nodeSelector:
  kubernetes.io/arch: amd64
  {{- if and $gpu .Values.gpu.product }}
  nvidia.com/gpu.product: {{ .Values.gpu.product }}
  {{- end }}
  {{- with .Values.nodeSelector }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with concat .Values.tolerations (ternary .Values.gpu.tolerations list $gpu) }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
volumes:
  - name: data
    persistentVolumeClaim:
      claimName: {{ .Values.storage.existingClaim | default (include "tritone.fullname" .) }}
  - name: tmp
    emptyDir:
      sizeLimit: 1Gi
  - name: shared-memory
    emptyDir:
      medium: Memory
      sizeLimit: {{ .Values.sharedMemorySize }}
{{- end }}

{{/* What all containers have in common. The image brings entry point, ports, profile and HOME=/tmp. */}}
{{- define "tritone.container" -}}
image: {{ include "tritone.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end }}

{{- define "tritone.modelDir" -}}
{{- if eq .Values.checkpoint.source "demo" }}demo{{ else }}/data/checkpoints/{{ .Values.checkpoint.directory }}{{ end }}
{{- end }}

{{/* The same for builder and server: together they name the folder of the engines. */}}
{{- define "tritone.engineEnv" -}}
- name: MODEL_DIR
  value: {{ include "tritone.modelDir" . }}
- name: ENGINES_DIR
  value: /data/engines
{{- with .Values.precision }}
- name: PRECISION
  value: {{ . }}
{{- end }}
- name: ENGINES_TIMEOUT_S
  value: {{ .Values.engines.timeoutSeconds | quote }}
{{- end }}

{{/* Runs before whoever builds; fetches what is missing, so it ends at once when the checkpoint is there. */}}
{{- define "tritone.downloadContainer" -}}
- name: download
  {{- include "tritone.container" . | nindent 2 }}
  command: [python3, -m, build_engines, download, --output-dir, {{ include "tritone.modelDir" . }}]
  {{- with .Values.checkpoint.download }}
  {{- if or .endpoint .tokenSecret }}
  env:
    {{- with .endpoint }}
    - name: HF_ENDPOINT
      value: {{ . }}
    {{- end }}
    {{- if .tokenSecret }}
    - name: HF_TOKEN
      valueFrom:
        secretKeyRef:
          name: {{ .tokenSecret }}
          key: {{ .tokenKey }}
    {{- end }}
  {{- end }}
  {{- end }}
  resources:
    requests: {cpu: 500m, memory: 1Gi}
    limits: {memory: 1Gi}
  volumeMounts:
    - name: data
      mountPath: /data
    - name: tmp
      mountPath: /tmp
{{- end }}
