#!/usr/bin/env bash
# `python -m sweep.run` for whatever starts a job again by itself: with --resume where the run is there already.
#
#   start_or_resume.sh STORAGE NAME [more flags of sweep.run]
set -euo pipefail

storage=$1 name=$2
shift 2
resume=()
test -e "$storage/$name/plan.json" && resume=(--resume)
exec python -m sweep.run --storage "$storage" --name "$name" "$@" "${resume[@]}"
