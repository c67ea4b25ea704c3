#!/usr/bin/env bash
# Asks for the TPU: one slice or SLICES of them. Returns when it is asked for;
# run.sh waits until it is there.
#   tpu_scripts/create.sh [--dry-run]
source "$(dirname "$0")/common.sh"

what=(--accelerator-type="$ACCELERATOR" "${PRICE[@]}" "${MORE[@]}")
if [[ "$TPU_AS" == vm ]]; then
  run "${tpus[@]}" create "$NAME" "${place[@]}" --version="$RUNTIME" \
    "${what[@]}"
elif ((SLICES == 1)); then
  run "${tpus[@]}" create "$NAME" "${place[@]}" --runtime-version="$RUNTIME" \
    "${what[@]}" --node-id="$NAME"
else
  run "${tpus[@]}" create "$NAME" "${place[@]}" --runtime-version="$RUNTIME" \
    "${what[@]}" --node-count="$SLICES" --node-prefix="$NAME"
fi
