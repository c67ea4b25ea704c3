"""`bad_steps.jsonl`: a line for each step whose update was skipped.

A step is skipped if its loss or gradient is not finite, or if its loss is a
spike (train/spikes.py). The line helps to find out why:

  {"step": 7, "reason": "not finite", "in_a_row": 1, "seed": 0, "batch": 6,
   "loss": "nan", "gradient_norm": "nan",
   "gradient_norms": {"embed": 0.12, "moe/ffn": "nan", ...},
   "leaves_not_finite": ["moe/ffn/experts/w_up", ...],
   "moe/logit_max": 13.2, "rows": {"code": [17, 4], "news": [311]}}

The batch and all random numbers of the step follow from (seed, batch); `rows`
lists the rows of each domain in it. `batch` is the step counted from 0.
"""

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from moejax.core import log, trees

FILE = 'bad_steps.jsonl'
LEAF_NORMS = 'leaf_norms'
# Gradient norms are summed up by the first names of a leaf's path, so many.
DEPTH = 2


def leaf_norms(gradient: Any) -> jax.Array:
  """The norm of every leaf, float32 [leaves], in the tree's order.

  The global norm needs the same sums, so these cost nothing more. The norm of a
  leaf is not finite if one of its elements is not, or overflows when squared.
  """
  norm = lambda g: jnp.sqrt(jnp.sum(jnp.square(g)))
  return jnp.stack([
    norm(g).astype(jnp.float32) for g in jax.tree.leaves(gradient)
  ])


@dataclasses.dataclass(frozen=True)
class BadSteps:
  """Writes a line for each step whose update was skipped.

  Attributes:
    names: names of the weights' leaves, in the tree's order.
    seed: seed of the run.
    rows: function from the number of a batch to its rows, by domain.
    writer: writes the lines.
  """

  names: Sequence[str]
  seed: int
  rows: Callable[[int], Mapping[str, Sequence[int]]]
  writer: log.Writer

  def see(
    self, step: int, scalars: Mapping[str, float], norms: np.ndarray
  ) -> None:
    """Writes a line if the step's metrics say that its update was skipped.

    Args:
      step: number of the step, counted from 1.
      scalars: metrics of the step.
      norms: norms of the gradient's leaves, float32 [leaves].
    """
    reason, in_a_row = why(scalars)
    if reason:
      described = describe(self.names, norms)
      metrics = {
        k: v for k, v in scalars.items() if not k.startswith('moe/load')
      }
      self.writer.write(
        step,
        {
          'reason': reason,
          'in_a_row': in_a_row,
          'seed': self.seed,
          'batch': step - 1,
          **metrics,
          **described,
          'rows': self.rows(step - 1),
        },
      )


def why(scalars: Mapping[str, float]) -> tuple[str | None, int]:
  """Why a step was skipped (or None), and the number of such steps in a row."""
  if scalars.get('bad_steps', 0):
    return 'not finite', int(scalars['bad_steps'])
  if scalars.get('spikes_in_a_row', 0):
    return 'spike', int(scalars['spikes_in_a_row'])
  return None, 0


def describe(names: Sequence[str], norms: np.ndarray) -> dict[str, Any]:
  """Norms by module of the model, and the leaves whose norm is not finite.

  Example, names a/b/c, a/b/d and e with norms 3, 4 and nan:
    {'gradient_norms': {'a/b': 5.0, 'e': nan}, 'leaves_not_finite': ['e']}
  """
  squares: dict[str, float] = collections.defaultdict(float)
  for name, norm in zip(names, norms, strict=True):
    module = '/'.join(name.split('/')[:DEPTH])
    squares[module] += float(norm) ** 2
  return {
    'gradient_norms': {m: float(np.sqrt(s)) for m, s in squares.items()},
    'leaves_not_finite': [
      name
      for name, norm in zip(names, norms, strict=True)
      if not np.isfinite(norm)
    ],
  }


def names_of(shapes: Any) -> list[str]:
  """The names of a tree's leaves, as `leaf_norms` orders them."""
  return list(trees.leaves(shapes))
