"""A step whose rows are split over devices equals that of one device."""

import functools

import jax
import numpy as np
import pytest
from helpers import objectives, tiny

from moejax.core import errors
from moejax.model.attention.context import AllGather, Ring
from moejax.model.attention.heads import Latent
from moejax.moe.balance import load
from moejax.moe.expert_parallel.all_to_all import AllToAll

BATCH = tiny.batch(([16], [5, 4], [3, 1, 6], [2, 14]), row_length=16)
KEY = jax.random.key(0)
# Balance losses so large that they matter as much as the text; one of them is
# of single rows.
MOE = {
  'balance': (load.ExpertLevel(2.0), load.SequenceLevel(3.0)),
  # Buffers with room for all rows.
  'expert_parallel': AllToAll(8.0),
}
SMALL = {'num_layers': 1, 'first_dense': 0}
# All that reads places in the row: windows, sinks, and tokens ahead.
LARGE = {
  'num_layers': 4,
  'first_dense': 2,
  'moe_every': 2,
  'windows': (0, 5),
  'sinks': True,
  'mtp_layers': 1,
}


def found(sizes, changes, gradients=True):
  """Loss and what is reported, on a mesh; with the gradients or without."""
  config = tiny.model_config(moe=MOE, **changes)
  devices = int(np.prod(list(sizes.values())))
  model = tiny.model(config, tiny.mesh(devices, **sizes))
  return objectives.found(model, BATCH, KEY, gradients)


@functools.cache
def on_one(names, gradients):
  return found({'data': 1}, dict(names), gradients)


def check(sizes, changes, parallel, gradients=True):
  want = on_one(tuple(sorted(changes.items())), gradients)
  got = found(sizes, changes | {'context_parallel': parallel}, gradients)
  tiny.assert_close(got, want, 1e-4, 1e-5)


def test_a_loss_on_a_mesh_equals_that_of_one_device():
  sizes = {'data': 1, 'expert': 2, 'context': 2}
  check(sizes, SMALL, AllGather(), gradients=False)


@pytest.mark.soak
@pytest.mark.parametrize('parallel', [AllGather(), Ring()], ids=str)
@pytest.mark.parametrize(
  'sizes',
  [
    {'data': 2, 'context': 4},
    {'data': 1, 'fsdp': 2, 'context': 4},
    {'data': 1, 'expert': 4, 'context': 2},
    {'data': 1, 'context': 4, 'model': 2},
    {'data': 1, 'fsdp': 2, 'context': 2, 'model': 2},
    {'data': 1, 'expert': 2, 'context': 2, 'model': 2},
    {'data': 1, 'fsdp': 2, 'expert': 2, 'context': 2},
  ],
  ids=str,
)
def test_all_that_reads_places_on_every_mesh(sizes, parallel):
  check(sizes, LARGE, parallel)


@pytest.mark.soak
@pytest.mark.parametrize('parallel', [AllGather(), Ring()], ids=str)
def test_latent_heads(parallel):
  changes = SMALL | {
    'heads': Latent(8, 6, 4, 3),
    'num_kv_heads': 4,
    'remat': 'full',
  }
  sizes = {'data': 1, 'context': 4, 'model': 2}
  check(sizes, changes, parallel)


def trace(sizes, rows, length):
  config = tiny.model_config(moe=MOE, **SMALL)
  devices = int(np.prod(list(sizes.values())))
  model = tiny.model(config, tiny.mesh(devices, **sizes))
  model.trace(rows, length)


def test_rows_that_cannot_be_cut_are_split_by_their_number():
  """Evaluations have rows of any length."""
  trace({'data': 2, 'context': 2}, 4, 7)
  with pytest.raises(errors.InputError, match='the length of rows=7 tokens'):
    trace({'data': 2, 'context': 2}, 2, 7)
