#!/usr/bin/env bash
# Gives the TPU back, whatever it does. What is in WORKDIR stays.
#   tpu_scripts/delete.sh [--dry-run]
source "$(dirname "$0")/common.sh"

force=()
[[ "$TPU_AS" == vm ]] || force=(--force) # its nodes as well
run "${tpus[@]}" delete "$NAME" "${place[@]}" "${force[@]}" --quiet
