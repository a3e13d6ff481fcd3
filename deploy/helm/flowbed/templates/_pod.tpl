{{- define "flowbed.labels" -}}
app.kubernetes.io/name: flowbed
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "flowbed.allLabels" -}}
{{ include "flowbed.labels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "flowbed.name" -}}
{{ .Release.Name | trunc 40 | trimSuffix "-" }}-flowbed
{{- end }}

{{/* The project's settings; the pods start again when they change. */}}
{{- define "flowbed.projectSum" -}}
flowbed/project: {{ printf "%s %s %s" .Values.project .Values.store (toJson .Values.environment) | sha256sum }}
{{- end }}

{{- define "flowbed.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* What the containers of server, worker and migration have in common. */}}
{{- define "flowbed.container" -}}
image: {{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
env:
  - name: FLOWBED_STORE
    value: {{ .Values.store | quote }}
  {{- range $name, $value := .Values.environment }}
  - name: {{ $name }}
    value: {{ $value | quote }}
  {{- end }}
envFrom:
  - secretRef: {name: {{ .Values.secret }}}
volumeMounts:
  - {name: project, mountPath: /project/flowbed.toml, subPath: flowbed.toml, readOnly: true}
  - {name: cache, mountPath: /project/.flowbed}
  - {name: tmp, mountPath: /tmp}
{{- end }}

{{- define "flowbed.volumes" -}}
- name: project
  configMap: {name: {{ include "flowbed.name" . }}}
- name: cache
  emptyDir: {sizeLimit: {{ .Values.cache.sizeLimit }}}
- name: tmp
  emptyDir: {sizeLimit: 1Gi}
{{- end }}
