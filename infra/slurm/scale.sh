#!/bin/bash
# Keep as many tasks in SLURM's queue as a pool of nightmill needs workers: scale.sh [POOL] [OPTION OF SBATCH …]
#
# For cron, scrontab or a loop. Tasks that run are never cancelled: their workers end when they have been idle.
# Tasks that wait in SLURM's queue are, if they aren't needed any more.

set -euo pipefail

pool=${1:-default}
shift || true
folder=$(dirname -- "$(readlink --canonicalize -- "$0")")
settings=${NIGHTMILL_SETTINGS:-$HOME/.config/nightmill/settings.env}
name=nightmill-$pool
gpus_per_task=${NIGHTMILL_GPUS_PER_TASK:-1}  # each is a worker

exec 9>"${XDG_RUNTIME_DIR:-/tmp}/$name-$UID.lock"
flock --nonblock 9 || exit 0  # the run before isn't done

# In a subshell, so that sbatch doesn't inherit what is in the file.
wanted=$(
    set -a
    # shellcheck disable=SC1090  # the site's own file
    source "$settings"
    : "${NIGHTMILL_DATABASE_URL:?not set in $settings}"
    nightmill pools --json | python3 -c '
import json, sys
wanted = {pool["name"]: pool["wanted"] for pool in json.load(sys.stdin)}
print(wanted[sys.argv[1]] if sys.argv[1] in wanted else sys.exit(f"no pool {sys.argv[1]}"))
' "$pool"
)

# A line for each task of an array. Tasks that are about to end aren't workers any more.
list_tasks() {
    squeue --me --noheader --array --name="$name" --format=%i --sort=-i --states="$1"
}
pending=$(list_tasks PENDING,REQUEUED,REQUEUE_HOLD,REQUEUE_FED)
active=$(list_tasks RUNNING,CONFIGURING,SUSPENDED)
mapfile -t waiting <<<"$pending"
mapfile -t running <<<"$active"
[[ -n $pending ]] || waiting=()
[[ -n $active ]] || running=()
needed=$(((wanted + gpus_per_task - 1) / gpus_per_task))
missing=$((needed - ${#waiting[@]} - ${#running[@]}))

if ((missing > 0)); then
    sbatch --parsable --job-name="$name" --array="1-$missing" "$@" "$folder/worker.sbatch" "$pool"
elif ((missing < 0)); then
    # Held, so that none begins meanwhile. `scancel --state=PENDING` cancels all waiting tasks of an array (SLURM 22.05).
    for task in "${waiting[@]:0:$((-missing))}"; do
        scontrol hold "$task" || continue
        if [[ $(squeue --noheader --array --jobs="$task" --format=%T) == PENDING ]]; then
            scancel "$task"
        else
            scontrol release "$task"
        fi
    done
fi
