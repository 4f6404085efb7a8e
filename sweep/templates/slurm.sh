#!/usr/bin/env bash
# A sweep on SLURM: one Ray over all nodes of the job, which `ray symmetric-run` (Ray 2.49 or newer) starts and stops.
#
#   cp sweep/templates/slurm.sh my_sweep.sh       # put your partition, sizes and folders in
#   sbatch my_sweep.sh
#
# Preempted, or 90 s before its time is over, the job gets SIGTERM: the sweep ends with 143 and the job is queued again,
# where it goes on with --resume. After `scancel` it is not.
# The environment that has this project and the folders below must be there on every node.
# Run by tests/sweep/cluster/test_slurm.py, with stand-ins for srun and scontrol.
#SBATCH --job-name=fairface
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=4
#SBATCH --mem=0
#SBATCH --time=12:00:00
# `ray stop`, at the end, ends every Ray that you have on a node.
#SBATCH --exclusive
# To the tasks and not to this script, as a preemption does.
#SBATCH --signal=TERM@90
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

space=${SPACE:-search_spaces/backbones.yaml}
root=${ROOT:-/shared/fairface}
storage=${STORAGE:-/shared/runs}
name=${NAME:-backbones}

# This script runs on the first node. On hosts of several networks, write the address that the others reach.
head=$(hostname -I | cut -d ' ' -f 1)
# The secret that guards the Ray of this job, in your home, which all nodes share.
export RAY_AUTH_MODE=token
umask 077
test -s ~/.ray/auth_token || ray get-auth-token --generate >/dev/null
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300

resume=()
test -e "$storage/$name/plan.json" && resume=(--resume)

cancelled=
trap 'cancelled=1' TERM
code=0
# The tasks' shells ignore SIGTERM, and with them `ray symmetric-run`, which would end at once and leave the sweep no
# time to end in order: SLURM kills what is left of a task when its first process is gone.
# shellcheck disable=SC2016
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=0 \
    bash -c 'trap "" TERM; exec ray symmetric-run "$@"' task \
    --address "$head:$((20000 + SLURM_JOB_ID % 10000))" --min-nodes "$SLURM_JOB_NUM_NODES" \
    --num-cpus "$SLURM_CPUS_PER_TASK" --num-gpus "${SLURM_GPUS_ON_NODE:-0}" \
    --include-dashboard false --disable-usage-stats --object-store-memory 104857600 \
    -- python -m sweep.run --space "$space" --root "$root" --storage "$storage" --name "$name" --address auto \
    "${resume[@]}" || code=$?

if [ "$code" -eq 143 ] && [ -z "$cancelled" ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
