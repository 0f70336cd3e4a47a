{{- define "nightmill.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 32 | trimSuffix "-" -}}
{{- end -}}

{{- define "nightmill.fullname" -}}
{{- $name := include "nightmill.name" . -}}
{{- $full := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) -}}
{{- .Values.fullnameOverride | default $full | trunc 32 | trimSuffix "-" -}}
{{- end -}}

{{- define "nightmill.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (include "nightmill.fullname" .) -}}
{{- end -}}

{{- /* Given (list root component): the labels by which a component is found; they never change. */ -}}
{{- define "nightmill.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "nightmill.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- /* Given (list root component): all labels of an object. */ -}}
{{- define "nightmill.labels" -}}
{{- $root := index . 0 -}}
{{ include "nightmill.selector" . }}
app.kubernetes.io/part-of: nightmill
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- end -}}
