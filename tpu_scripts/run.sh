#!/usr/bin/env bash
# Trains until the run is finished, whatever happens to the TPU in between.
#   tpu_scripts/run.sh [--dry-run]
#
# Creates the TPU if there is none, waits for it, starts the training on all
# hosts and waits for its end. If the TPU was preempted it is deleted and asked
# for again; the training goes on from its last checkpoint. This command may be
# stopped and started again (Ctrl-C does not stop the training; stop.sh does):
# it finds what is running.
source "$(dirname "$0")/common.sh"

# A container that runs already is left alone. TPU hosts find each other.
start="sudo docker ps --quiet --filter name=^/moejax\$ | grep -q . || {\
 sudo docker rm moejax >/dev/null 2>&1;\
 sudo docker run --detach --init --name moejax --privileged --net=host\
 --shm-size=16g --ulimit memlock=-1 --volume $(typed "$CACHE:/cache")\
 --env MOEJAX_CACHE=/cache $(typed "$IMAGE") $main; }"
end='sudo docker wait moejax' # prints the exit code

if [[ -n "$DRY_RUN" ]]; then
  # The straight way: there is no TPU yet, and nothing goes wrong.
  run "${tpus[@]}" describe "$NAME" "${place[@]}" --format="$state"
  "$here/create.sh"
  "$here/setup.sh"
  on all "$start"
  on 0 "$end"
  exit 0
fi

if ! command -v gcloud >/dev/null; then
  echo 'error: no gcloud; install the Google Cloud CLI' >&2
  exit 2
fi
say() { echo "$(date -u +%FT%TZ) $*"; }

last=''
for ((tries = 0; tries <= RESTARTS; )); do
  now="$(state_of)"
  [[ "$now" == "$last" ]] || say "$NAME is $now"
  last="$now"
  case "$now" in
    ABSENT)
      tries=$((tries + 1))
      # At first it is a wrong name that fails, later more likely the cloud.
      "$here/create.sh" || ((tries > 1))
      ;;
    SUSPENDED | FAILED | PREEMPTED | TERMINATED | STOPPED)
      say "$NAME is deleted, to be asked for again"
      "$here/delete.sh" || tries=$((tries + 1))
      ;;
    ACTIVE | READY)
      tries=$((tries + 1))
      code=''
      if "$here/setup.sh" && on all "$start"; then
        say 'training; its words: tpu_scripts/logs.sh'
        code="$(on 0 "$end" | tail -n 1)" || code=''
      fi
      if [[ "$code" == 0 ]]; then
        say 'finished; tpu_scripts/delete.sh gives the TPU back'
        exit 0
      fi
      # What comes of a host that goes away may look like anything.
      now="$(state_of)"
      if [[ "$code" == [123] && ("$now" == ACTIVE || "$now" == READY) ]]; then
        say "ended with exit code $code, which trying again does not mend"
        exit "$code"
      fi
      say "ended with exit code ${code:-unknown}, the TPU is $now: again"
      [[ "$now" != ACTIVE && "$now" != READY ]] || "$here/stop.sh" || true
      last=''
      ;;
    UNKNOWN) tries=$((tries + 1)) ;;
  esac
  sleep "$POLL_SECONDS"
done
say "gave up after $RESTARTS restarts (RESTARTS in $MOEJAX_ENV)"
exit 75
