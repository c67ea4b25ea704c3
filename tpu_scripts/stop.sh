#!/usr/bin/env bash
# Stops the training on all hosts: SIGTERM, upon which it saves; after ten
# minutes SIGKILL. The TPU stays (and costs); delete.sh gives it back.
#   tpu_scripts/stop.sh [--dry-run]
source "$(dirname "$0")/common.sh"

on all 'sudo docker stop --time=600 moejax'
