{{- /* Given (list root name): the pool's values over poolDefaults, as YAML. */ -}}
{{- define "nightmill.pool" -}}
{{- $root := index . 0 -}}
{{- $own := index $root.Values.pools (index . 1) | default dict -}}
{{- mergeOverwrite (deepCopy $root.Values.poolDefaults) (deepCopy $own) | toYaml -}}
{{- end -}}

{{- /* Given a pool: child processes of a pod. */ -}}
{{- define "nightmill.podChildren" -}}
{{- eq .device "cuda" | ternary .gpu.count 1 -}}
{{- end -}}

{{- /* Given a pool: children that it has at most. */ -}}
{{- define "nightmill.poolChildren" -}}
{{- $pods := .autoscaling.enabled | ternary .autoscaling.maxReplicas .replicas -}}
{{- mul $pods (include "nightmill.podChildren" . | int) -}}
{{- end -}}

{{- /* Given (list root name): name of the pool's Deployment, claim and ScaledObject. */ -}}
{{- define "nightmill.poolName" -}}
{{- printf "%s-worker-%s" (include "nightmill.fullname" (index . 0)) (index . 1) -}}
{{- end -}}

{{- /* Given a pool: resources of the worker, with its GPUs. */ -}}
{{- define "nightmill.poolResources" -}}
{{- $resources := deepCopy .resources -}}
{{- if eq .device "cuda" -}}
{{- $_ := set $resources "limits" (mergeOverwrite $resources.limits (dict .gpu.resource (.gpu.count | int))) -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}

{{- /* Given a pool: the volume of its models, but for its name. */ -}}
{{- define "nightmill.modelsVolume" -}}
{{- $pool := index . 2 -}}
{{- with $pool.modelsVolume -}}
{{- if or .existingClaim .claim -}}
persistentVolumeClaim: {claimName: {{ .existingClaim | default (include "nightmill.poolName" (list (index $ 0) (index $ 1))) | quote }}}
{{- else -}}
emptyDir: {sizeLimit: {{ .size }}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* Given (list root pool): init container that fills and checks the models volume; nothing where there is no need. */ -}}
{{- define "nightmill.modelsContainer" -}}
{{- $root := index . 0 -}}
{{- $pool := index . 1 -}}
{{- if or $pool.pull $pool.verify $root.Values.models.lockConfigMap }}
- name: models
  {{- include "nightmill.image" (list $root "worker") | nindent 2 }}
  {{- include "nightmill.containerSecurity" $root | nindent 2 }}
  command: [sh, -euc]
  args:
    - |
      {{- if $root.Values.models.lockConfigMap }}
      cp /lock/nightmill.lock "/models/.nightmill.lock.$HOSTNAME"
      mv "/models/.nightmill.lock.$HOSTNAME" /models/nightmill.lock
      {{- end }}
      {{- with $pool.pull }}
      nightmill models pull {{ if $root.Values.models.lockConfigMap }}--locked {{ end }}{{ join " " . }}
      {{- end }}
      {{- if $pool.verify }}
      nightmill models lock --check{{ with $pool.pull }} {{ join " " . }}{{ end }}
      {{- end }}
  env:
    {{- include "nightmill.folderEnv" $root | nindent 4 }}
    {{- if $root.Values.models.tokenSecret }}
    - name: HF_TOKEN
      valueFrom:
        secretKeyRef: {name: {{ $root.Values.models.tokenSecret | quote }}, key: {{ $root.Values.models.tokenKey | quote }}}
    {{- end }}
    {{- with $root.Values.models.hubEndpoint }}
    - name: HF_ENDPOINT
      value: {{ . | quote }}
    {{- end }}
    {{- with concat $root.Values.extraEnv $pool.extraEnv }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  resources: {{- toYaml $pool.resources | nindent 4 }}
  volumeMounts:
    - name: models
      mountPath: /models
    {{- include "nightmill.mounts" $root | nindent 4 }}
    {{- if $root.Values.models.lockConfigMap }}
    - name: lock
      mountPath: /lock
      readOnly: true
    {{- end }}
{{- end }}
{{- end -}}
