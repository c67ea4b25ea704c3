"""Exact answers to conversations, counted while their rows are scored.

An answer is a run of targets with a loss, inside one conversation. It is exact
if each of its tokens is the most probable one after those before it. Then the
model writes this very answer, with its end, if it always writes the most
probable token.

  targets   Q Q Q a b E   Q Q c E      Q has no loss; E ends an answer
  correct         y n y       y y      one of two answers is exact
"""

import collections
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from moejax.core import values
from moejax.data.cache import RowReader

_ROWS = 256  # that are read together


def exact(
  correct_BL: jax.Array, weight_BL: jax.Array, segment_BL: jax.Array
) -> values.Mean:
  """The share of exact answers, which has their number as its weight.

  Args:
    correct_BL: whether a target is the most probable token.
    weight_BL: 0 where a target has no loss.
    segment_BL: segments of the rows.
  """
  target_BL = weight_BL > 0
  begins_BL = _begins(target_BL, segment_BL, jnp)
  # Number of the answer in its row, from 1; 0 outside of answers.
  answer_BL = jnp.where(target_BL, jnp.cumsum(begins_BL, axis=1), 0)
  rows, length = answer_BL.shape
  wrong_BA = jnp.zeros((rows, length + 1), bool)
  row_B1 = jnp.arange(rows)[:, None]
  wrong_BA = wrong_BA.at[row_B1, answer_BL].max(correct_BL == 0)
  number = jnp.sum(begins_BL, dtype=jnp.float32)
  wrong = jnp.sum(wrong_BA[:, 1:], dtype=jnp.float32)
  return values.Mean(number - wrong, number)


def prompts(weight_BL: jax.Array, segment_BL: jax.Array) -> values.Sum:
  """The number of targets without a loss; text other than talk has none."""
  return values.Sum(jnp.sum((weight_BL == 0) & (segment_BL > 0)))


def most_frequent(reader: RowReader) -> float:
  """The share of the most frequent answer among all answers of some rows.

  It is what a model gets that always gives the best answer of all constant
  ones.
  """
  counts: collections.Counter[bytes] = collections.Counter()
  for first in range(0, reader.num_rows, _ROWS):
    index_N = np.arange(first, min(first + _ROWS, reader.num_rows))
    target_NL, segment_NL = reader.rows(index_N)
    is_target_NL = (target_NL >= 0) & (segment_NL > 0)
    begins_NL = _begins(is_target_NL, segment_NL, np)
    number_NL = np.cumsum(begins_NL).reshape(begins_NL.shape)
    id_X, number_X = target_NL[is_target_NL], number_NL[is_target_NL]
    cuts = np.flatnonzero(np.diff(number_X)) + 1
    counts.update(ids.tobytes() for ids in np.split(id_X, cuts) if len(ids))
  return max(counts.values()) / counts.total() if counts else 0.0


def _begins(target_BL: Any, segment_BL: Any, xnp: Any) -> Any:
  """Whether an answer begins at a target, by jax.numpy or numpy."""
  before_BL = target_BL[:, :-1] & (segment_BL[:, :-1] == segment_BL[:, 1:])
  before_BL = xnp.pad(before_BL, ((0, 0), (1, 0)))
  return target_BL & ~before_BL
