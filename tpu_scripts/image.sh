#!/usr/bin/env bash
# Builds the image of this working tree, and pushes it where the TPUs find it.
#   tpu_scripts/image.sh [--dry-run]
source "$(dirname "$0")/common.sh"

run docker build --file "$here/tpu.Dockerfile" --tag "$IMAGE" \
  "$(dirname "$here")"
run docker push "$IMAGE"
