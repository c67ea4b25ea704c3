"""Samples of trials in blocks of rows, and the sums of all of them.

Each pass takes the blocks of all trials that go on, a fixed number at a time.
So one compiled program serves all sizes of samples, a trial that has converged
costs nothing, and memory stays flat.
"""

import math
from typing import Any

import flax.struct
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np

from moejax.research.expert_estimation import sums
from moejax.research.expert_estimation.model import Model

# Rows of a block, and blocks that are computed together. On a CPU so few that
# they stay in its caches.
ROWS = 256
LANES_ON_CPU, LANES_ELSEWHERE = 8, 1024


@flax.struct.dataclass
class Blocks:
  """The samples of T trials in blocks of `ROWS` rows, those of a trial in turn.

  Attributes:
    x_BRD: inputs.
    y_BR: outputs.
    weight_BR: weights; 0 in rows that are no samples.
    each: blocks of a trial.
    num: samples of a trial.
  """

  x_BRD: Any
  y_BR: Any
  weight_BR: Any
  each: Any
  num: Any


def lanes() -> int:
  """Blocks that are computed together on JAX's device."""
  return LANES_ON_CPU if jax.default_backend() == 'cpu' else LANES_ELSEWHERE


def of(
  x_TND: np.ndarray,
  y_TN: np.ndarray,
  weight_TN: np.ndarray,
  room: tuple[int, int] = (0, 0),
) -> Blocks:
  """The samples of trials in blocks, with room for more."""
  trials, num, _ = x_TND.shape
  each = math.ceil(num / ROWS)
  size = max(room[0], trials) * math.ceil(max(room[1], num) / ROWS)

  def rows(array: np.ndarray) -> np.ndarray:
    padded = np.zeros((size, ROWS, *array.shape[2:]))
    shape = (trials, each * ROWS, *array.shape[2:])
    padded[: trials * each].reshape(shape)[:, :num] = array
    return padded

  return Blocks(
    x_BRD=rows(x_TND),
    y_BR=rows(y_TN),
    weight_BR=rows(weight_TN),
    each=np.asarray(each, np.int32),
    num=np.asarray(num, np.float64),
  )


def totals(
  model: Model,
  lanes: int,
  point_TV: jax.Array,
  active_T: jax.Array,
  blocks: Blocks,
) -> sums.Sums:
  """The sums of all samples of each trial that goes on; of others, zeros.

  Args:
    model: a density.
    lanes: blocks that are computed together.
    point_TV: parameters, flat.
    active_T: whether a trial goes on.
    blocks: the samples.
  """
  trials = len(active_T)
  rebuild = sums.rebuilder(model)
  order_T = jnp.argsort(~active_T, stable=True)
  num = jnp.sum(active_T) * blocks.each

  def lane(
    point_V: jax.Array, x_RD: jax.Array, y_R: jax.Array, weight_R: jax.Array
  ) -> sums.Sums:
    return sums.of(model, rebuild(point_V), x_RD, y_R, weight_R)

  def take(index: jax.Array, total_TS: jax.Array) -> jax.Array:
    pair_L = index * lanes + jnp.arange(lanes)
    known_L = pair_L < num
    pair_L = jnp.where(known_L, pair_L, 0)
    trial_L = order_T[pair_L // blocks.each]
    block_L = trial_L * blocks.each + pair_L % blocks.each
    part = jax.vmap(lane)(
      point_TV[trial_L],
      blocks.x_BRD[block_L],
      blocks.y_BR[block_L],
      blocks.weight_BR[block_L],
    )
    part_LS = jax.vmap(lambda tree: jax.flatten_util.ravel_pytree(tree)[0])(
      part
    )
    part_LS = jnp.where(known_L[:, None], part_LS, 0.0)
    return total_TS.at[trial_L].add(part_LS)

  shapes = jax.eval_shape(
    lane,
    point_TV[0],
    blocks.x_BRD[0],
    blocks.y_BR[0],
    blocks.weight_BR[0],
  )
  zero_S, unravel = jax.flatten_util.ravel_pytree(
    jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
  )
  total_TS = jax.lax.fori_loop(
    0,
    (num + lanes - 1) // lanes,
    take,
    jnp.zeros((trials, len(zero_S)), zero_S.dtype),
  )
  return jax.vmap(unravel)(total_TS)
