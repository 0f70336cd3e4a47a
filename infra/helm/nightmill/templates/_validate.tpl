{{- /* What a schema can't say, all of it at once and in words. */ -}}
{{- define "nightmill.validate" -}}
{{- $wrong := list -}}
{{- $instead := dict
      "database_url" "database.existingSecret" "broker_url" "broker.existingSecret" "output" "output.uri"
      "s3_endpoint_url" "output.s3.endpointUrl" "s3_region" "output.s3.region" "device" "pools.NAME.device"
      "pool" "pools" "pool_models" "pools.NAME.models" "shutdown_grace_s" "shutdownGraceSeconds"
      "data_dir" "" "models_dir" "" "metrics_address" "" "log_format" "" "secrets_dir" "" -}}
{{- with .Values -}}
{{- range $kind := list "server" "worker" -}}
{{- if not (index $.Values.image $kind).repository -}}
{{- $wrong = append $wrong (printf "image.%s.repository: name the image that you built from infra/docker" $kind) -}}
{{- end -}}
{{- if eq (index $.Values.image $kind).tag "latest" -}}
{{- $wrong = append $wrong (printf "image.%s.tag: say which version; latest is another one tomorrow" $kind) -}}
{{- end -}}
{{- end -}}
{{- if not .database.existingSecret -}}
{{- $wrong = append $wrong "database.existingSecret: name the Secret that holds the PostgreSQL URL; this chart starts no database" -}}
{{- end -}}
{{- if not .broker.existingSecret -}}
{{- $wrong = append $wrong "broker.existingSecret: name the Secret that holds the Redis URL; this chart starts no Redis" -}}
{{- end -}}
{{- if not .output.uri -}}
{{- $wrong = append $wrong "output.uri: say where images go: s3://bucket/prefix, or /output with output.existingClaim" -}}
{{- else if and (hasPrefix "/" .output.uri) (not .output.existingClaim) -}}
{{- $wrong = append $wrong "output.existingClaim: a folder as output.uri needs a claim that all pods can write, mounted at /output" -}}
{{- else if and (hasPrefix "/" .output.uri) (ne .output.uri "/output") (not (hasPrefix "/output/" .output.uri)) -}}
{{- $wrong = append $wrong (printf "output.uri: %s is outside the claim, which is mounted at /output" .output.uri) -}}
{{- end -}}
{{- $all := dict "" .settings "poolDefaults." .poolDefaults.settings -}}
{{- range $name, $own := .pools -}}
{{- $_ := set $all (printf "pools.%s." $name) (dig "settings" dict ($own | default dict)) -}}
{{- end -}}
{{- range $where, $settings := $all -}}
{{- range $name := keys $settings | sortAlpha -}}
{{- if hasKey $instead $name -}}
{{- $wrong = append $wrong (printf "%ssettings.%s: the chart sets it itself%s" $where $name (get $instead $name | empty | ternary "" (printf ", by %s" (get $instead $name)))) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if not .pools -}}
{{- $wrong = append $wrong "pools: name at least one, as in `pools: {default: {resources: …}}`" -}}
{{- end -}}
{{- range $name, $own := .pools -}}
{{- $pool := include "nightmill.pool" (list $ $name) | fromYaml -}}
{{- if and (eq $pool.device "cuda") (ne $pool.gpu.resource "nvidia.com/gpu") (gt (int $pool.gpu.count) 1) -}}
{{- $wrong = append $wrong (printf "pools.%s.gpu.count: a process sees one MIG slice only; say 1, and more replicas" $name) -}}
{{- end -}}
{{- if gt (int $pool.autoscaling.minReplicas) (int $pool.autoscaling.maxReplicas) -}}
{{- $wrong = append $wrong (printf "pools.%s.autoscaling: minReplicas is above maxReplicas" $name) -}}
{{- end -}}
{{- if and $pool.verify (not $.Values.models.lockConfigMap) (not $pool.modelsVolume.existingClaim) -}}
{{- $wrong = append $wrong (printf "pools.%s.verify: there is no lock to compare with; name models.lockConfigMap, or a claim with a lock" $name) -}}
{{- end -}}
{{- if and (dig "resources" "limits" $pool.gpu.resource "" ($own | default dict)) (eq $pool.device "cuda") -}}
{{- $wrong = append $wrong (printf "pools.%s.resources.limits: leave %s to gpu.count" $name $pool.gpu.resource) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if $wrong -}}
{{- fail (printf "\n\nthese values are missing or wrong:\n  %s\n" (join "\n  " $wrong)) -}}
{{- end -}}
{{- end -}}
