# shellcheck shell=bash
# What the scripts share: the environment file, --dry-run, and gcloud's two ways
# of having TPU VMs. Sourced, not run.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
MOEJAX_ENV="${MOEJAX_ENV:-$here/env.sh}"
export MOEJAX_ENV
if [[ ! -f "$MOEJAX_ENV" ]]; then
  echo "error: no $MOEJAX_ENV: copy $here/env.example.sh there, and edit it" >&2
  exit 2
fi
# shellcheck source=env.example.sh
source "$MOEJAX_ENV"

if [[ "${1:-}" == --dry-run ]]; then
  DRY_RUN=1
  shift
fi
export DRY_RUN="${DRY_RUN:-}"

# A command as one could type it, quoted where it must be.
typed() {
  local word line=''
  for word in "$@"; do
    [[ "$word" =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] || word="${word@Q}"
    line+="$word "
  done
  echo "${line% }"
}

# Runs a command; with --dry-run only prints it.
run() {
  if [[ -n "$DRY_RUN" ]]; then typed "$@"; else "$@"; fi
}

# The commands of `gcloud compute tpus` for what TPU_AS says.
case "$TPU_AS" in
  queued)
    tpus=(gcloud compute tpus queued-resources)
    state='value(state.state)'
    ;;
  vm)
    tpus=(gcloud compute tpus tpu-vm)
    state='value(state)'
    ;;
  *)
    echo "error: TPU_AS=$TPU_AS in $MOEJAX_ENV must be queued or vm" >&2
    exit 2
    ;;
esac
place=(--project="$PROJECT" --zone="$ZONE")
# shellcheck disable=SC2034  # of run.sh and xpk.sh
main="$(typed python -m moejax.main --config="$CONFIG" --workdir="$WORKDIR" \
  "${FLAGS[@]}")"

# on <all|0> COMMAND: on all hosts of all slices, or on the first host.
on() {
  local hosts=(--worker="$1")
  [[ "$TPU_AS" == vm ]] || hosts+=(--node="$1")
  run "${tpus[@]}" ssh "$NAME" "${place[@]}" "${hosts[@]}" --command="$2"
}

# The TPU's state as Google Cloud names it; ABSENT if there is none, UNKNOWN if
# there was no answer.
state_of() {
  local answer
  if answer="$("${tpus[@]}" describe "$NAME" "${place[@]}" --format="$state" \
    2>&1)"; then
    tail -n 1 <<<"$answer"
  elif [[ "$answer" == *NOT_FOUND* ]]; then
    echo ABSENT
  else
    echo "$answer" >&2
    echo UNKNOWN
  fi
}
