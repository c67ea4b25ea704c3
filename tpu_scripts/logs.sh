#!/usr/bin/env bash
# Shows what the training says on the first host, and follows it.
#   tpu_scripts/logs.sh [--dry-run]
source "$(dirname "$0")/common.sh"

on 0 'sudo docker logs --tail=200 --follow moejax'
