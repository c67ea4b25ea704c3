# shellcheck shell=bash disable=SC2034
# Every name that the scripts use. Copy to env.sh beside this file and edit;
# MOEJAX_ENV=/path/of/another.sh takes another file, one for each run.

# What is trained
CONFIG=configs/ds_16b.py        # may have a variant: configs/ds_145b.py:half
WORKDIR=gs://my-bucket/ds_16b   # where all hosts can write: it survives the TPU
# Further flags. This one: a run that is stuck ends, and so is started again.
FLAGS=(--config.train.watchdog_exits=true)

# Where
PROJECT=my-project
ZONE=us-east5-a
NAME=moejax                     # of the TPU, of its nodes, of the GKE workload
# What image.sh builds and pushes.
IMAGE=registry.example/my-project/moejax-tpu:1

# TPU VMs
TPU_AS=queued                   # queued (a queued resource) or vm (at once)
ACCELERATOR=v5p-128             # v5p counts cores: 64 chips, a 4x4x4 slice
RUNTIME=v2-alpha-tpuv5          # the software of the VMs
SLICES=1                        # more than 1: only as a queued resource
PRICE=(--spot)                  # (--spot), (--reserved), or () for on demand
MORE=()                         # further flags of create: (--network=my-net)
CACHE=/var/moejax               # on each VM: packed text, kept between runs

# run.sh
POLL_SECONDS=60                 # between two looks at a TPU that is not ready
RESTARTS=100                    # then it gives up

# GKE with xpk
CLUSTER=moejax                  # runs SLICES slices of ACCELERATOR

# Slurm, GPUs
PYTHON=.venv/bin/python         # with moejax[gpu], seen by all nodes
