#!/bin/sh
# Write the secrets that compose.yaml mounts, with random passwords, into infra/compose/secrets; what is there stays.
#
# Only their owner gets into the folder. The files themselves may be read by anyone who is let in: a container's user is
# another one than the host's, and Docker mounts files with the rights that they have.
set -eu
folder=${1:-$(dirname "$0")/secrets}
[ -e "$folder" ] && { echo "$folder is there: nothing was changed" >&2; exit 0; }
umask 022
mkdir -m 0700 "$folder.new"
cd "$folder.new"

random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }

postgres=$(random)
valkey=$(random)
access=nightmill-$(random | cut -c1-12)
secret=$(random)
printf '%s\n' "$postgres" > postgres_password
printf 'postgresql://nightmill:%s@postgres:5432/nightmill\n' "$postgres" > nightmill_database_url
printf 'redis://:%s@valkey:6379/0\n' "$valkey" > nightmill_broker_url
printf 'save ""\nappendonly no\nrequirepass %s\n' "$valkey" > valkey.conf
printf '[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n' "$access" "$secret" > aws_credentials
printf '{"identities": [{"name": "nightmill", "credentials": [{"accessKey": "%s", "secretKey": "%s"}], "actions": ["Admin"]}]}\n' \
    "$access" "$secret" > s3_identities.json
random > grafana_password

cd ..
mv "$(basename "$folder").new" "$(basename "$folder")"
echo "wrote $folder"
