{{- /* Given (list root "server" or "worker"): image and pull policy of a container. */ -}}
{{- define "nightmill.image" -}}
{{- $root := index . 0 -}}
{{- $image := index $root.Values.image (index . 1) -}}
{{- if $image.digest -}}
image: {{ printf "%s@%s" $image.repository $image.digest | quote }}
{{- else -}}
image: {{ printf "%s:%s" $image.repository ($image.tag | default $root.Chart.AppVersion) | quote }}
{{- end }}
imagePullPolicy: {{ $image.pullPolicy }}
{{- end -}}

{{- define "nightmill.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  runAsNonRoot: true
  capabilities:
    drop: [ALL]
{{- end -}}

{{- /* Given the root: what the specs of all pods have in common. Kubernetes' variables of services look like
       settings (NIGHTMILL_SCHEDULER_PORT), so pods get none. */ -}}
{{- define "nightmill.podBasics" -}}
enableServiceLinks: false
automountServiceAccountToken: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /* Given (list root component own-labels): labels of a pod, without versions: a new chart alone restarts no pod. */ -}}
{{- define "nightmill.podLabels" -}}
{{- $root := index . 0 -}}
{{ include "nightmill.selector" (list $root (index . 1)) }}
app.kubernetes.io/part-of: nightmill
{{- with mergeOverwrite (deepCopy $root.Values.podLabels) (index . 2) }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* Given a map: its entries as NIGHTMILL_ variables; whole numbers don't become 1e+06. */ -}}
{{- define "nightmill.settings" -}}
{{- range $name, $value := . }}
- name: NIGHTMILL_{{ upper $name }}
  {{- if and (kindIs "float64" $value) (eq (float64 (int64 $value)) $value) }}
  value: {{ int64 $value | toString | quote }}
  {{- else }}
  value: {{ $value | toString | quote }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "nightmill.folderEnv" -}}
- name: NIGHTMILL_DATA_DIR
  value: /data
- name: NIGHTMILL_MODELS_DIR
  value: /models
- name: HOME
  value: /data
{{- end -}}

{{- /* Given (list root own-settings own-env): environment of a container. */ -}}
{{- define "nightmill.env" -}}
{{- $root := index . 0 -}}
{{- with $root.Values -}}
- name: NIGHTMILL_DATABASE_URL
  valueFrom:
    secretKeyRef: {name: {{ .database.existingSecret | quote }}, key: {{ .database.key | quote }}}
- name: NIGHTMILL_BROKER_URL
  valueFrom:
    secretKeyRef: {name: {{ .broker.existingSecret | quote }}, key: {{ .broker.key | quote }}}
- name: NIGHTMILL_OUTPUT
  value: {{ .output.uri | quote }}
{{- with .output.s3 }}
{{- with .endpointUrl }}
- name: NIGHTMILL_S3_ENDPOINT_URL
  value: {{ . | quote }}
{{- end }}
{{- with .region }}
- name: NIGHTMILL_S3_REGION
  value: {{ . | quote }}
{{- end }}
{{- if .existingSecret }}
- name: AWS_ACCESS_KEY_ID
  valueFrom:
    secretKeyRef: {name: {{ .existingSecret | quote }}, key: {{ .accessKeyIdKey | quote }}}
- name: AWS_SECRET_ACCESS_KEY
  valueFrom:
    secretKeyRef: {name: {{ .existingSecret | quote }}, key: {{ .secretAccessKeyKey | quote }}}
{{- end }}
{{- end }}
{{ include "nightmill.folderEnv" . }}
- name: NIGHTMILL_LOG_FORMAT
  value: json
- name: NIGHTMILL_SHUTDOWN_GRACE_S
  value: {{ .shutdownGraceSeconds | toString | quote }}
{{- include "nightmill.settings" (mergeOverwrite (deepCopy .settings) (index $ 1)) }}
{{- with concat .extraEnv (index $ 2) }}
{{ toYaml . }}
{{- end }}
{{- end }}
{{- end -}}

{{- /* Given the root: mounts of every container but /models. */ -}}
{{- define "nightmill.mounts" -}}
- name: data
  mountPath: /data
- name: tmp
  mountPath: /tmp
{{- if .Values.output.existingClaim }}
- name: output
  mountPath: /output
{{- end }}
{{- if .Values.models.cardsConfigMap }}
- name: cards
  mountPath: /models/cards
  readOnly: true
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* Given the root: volumes of every pod but /models. */ -}}
{{- define "nightmill.volumes" -}}
- name: data
  emptyDir: {sizeLimit: {{ .Values.scratchSize }}}
- name: tmp
  emptyDir: {sizeLimit: {{ .Values.scratchSize }}}
{{- if .Values.output.existingClaim }}
- name: output
  persistentVolumeClaim: {claimName: {{ .Values.output.existingClaim | quote }}}
{{- end }}
{{- if .Values.models.cardsConfigMap }}
- name: cards
  configMap: {name: {{ .Values.models.cardsConfigMap | quote }}}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* Given the seconds that a start may take: probes of a long-running container. */ -}}
{{- define "nightmill.probes" -}}
{{- $seconds := index . 0 -}}
startupProbe:
  httpGet: {path: /healthz, port: metrics}
  periodSeconds: 5
  failureThreshold: {{ div $seconds 5 }}
livenessProbe:
  httpGet: {path: /healthz, port: metrics}
  periodSeconds: 20
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: {{ index . 1 }}, port: metrics}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
{{- end -}}
