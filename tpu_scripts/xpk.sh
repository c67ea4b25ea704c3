#!/usr/bin/env bash
# The same on GKE, with xpk: a cluster with SLICES slices, and a workload in it.
# GKE brings a preempted slice back and starts the workload anew.
#   tpu_scripts/xpk.sh create|run|logs|stop|delete [--dry-run]
command="${1:-}"
shift || true
source "$(dirname "$0")/common.sh"

place+=(--cluster="$CLUSTER")
slices=(--tpu-type="$ACCELERATOR" --num-slices="$SLICES")
case "$command" in
  create) run xpk cluster create "${place[@]}" "${slices[@]}" "${PRICE[@]}" ;;
  run)
    # Exit codes after which the same command goes on: see the README.
    run xpk workload create "${place[@]}" "${slices[@]}" --workload="$NAME" \
      --docker-image="$IMAGE" --max-restarts="$RESTARTS" \
      --restart-on-exit-codes=4,6,75 --termination-grace-period-seconds=600 \
      --command="$main"
    ;;
  logs)
    run kubectl logs --follow --tail=200 --prefix --max-log-requests=1000 \
      --selector="xpk.google.com/workload=$NAME"
    ;;
  stop) run xpk workload delete "${place[@]}" --workload="$NAME" ;;
  delete) run xpk cluster delete "${place[@]}" ;;
  *)
    echo "error: xpk.sh create|run|logs|stop|delete, not '$command'" >&2
    exit 2
    ;;
esac
