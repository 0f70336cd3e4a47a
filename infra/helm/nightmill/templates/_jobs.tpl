{{- /* Given the root: a container of a job, but for its name and arguments. */ -}}
{{- define "nightmill.jobContainer" -}}
{{ include "nightmill.image" (list . "server") }}
{{ include "nightmill.containerSecurity" . }}
env:
  {{- include "nightmill.env" (list . dict list) | nindent 2 }}
resources: {{- toYaml .Values.migrate.resources | nindent 2 }}
volumeMounts:
  {{- include "nightmill.mounts" . | nindent 2 }}
{{- end -}}
