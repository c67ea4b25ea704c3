#!/usr/bin/env bash
# Brings the image to every host. run.sh does this by itself.
#   tpu_scripts/setup.sh [--dry-run]
source "$(dirname "$0")/common.sh"

on all "sudo gcloud auth configure-docker $(typed "${IMAGE%%/*}") --quiet &&\
 sudo docker pull --quiet $(typed "$IMAGE") && sudo mkdir -p $(typed "$CACHE")"
