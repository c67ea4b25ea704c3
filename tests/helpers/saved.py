"""States with every kind of leaf, saved and compared to the bit."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from moejax.train.checkpoint import Checkpointer


class Moments(NamedTuple):
  mu: Any
  nu: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class State:
  step: Any
  params: Any
  moments: Any
  key: Any


def random_bits(seed, shape, dtype):
  """Any bits at all: with NaN payloads, infinities, subnormals, -0."""
  rng = np.random.default_rng(seed)
  size = np.dtype(dtype).itemsize
  data = rng.integers(0, 256, (*shape, size), dtype=np.uint8)
  array = data.view(dtype).reshape(shape)
  array.reshape(-1)[0] = np.asarray(-0.0).astype(dtype)
  return array


def make_state(seed=0):
  bits = lambda i, shape, dtype: jnp.asarray(
    random_bits((seed, i), shape, dtype)
  )
  params = {
    'embed': bits(1, (8, 6), jnp.float32),
    'blocks': [{'w': bits(2, (2, 3, 4), jnp.bfloat16)}, {'w': jnp.zeros(0)}],
  }
  return State(
    step=jnp.int32(seed),
    params=params,
    moments=Moments(bits(3, (8, 6), jnp.float32), bits(4, (5,), jnp.int32)),
    key=jax.random.key_data(jax.random.key(seed)),
  )


def abstract(tree):
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree
  )


def assert_same_bits(got, want):
  assert jax.tree.structure(got) == jax.tree.structure(want)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def save_steps(folder, steps, **options):
  with Checkpointer(folder, **options) as checkpointer:
    for step in steps:
      checkpointer.save(step, make_state(step), {'next_step': step})
