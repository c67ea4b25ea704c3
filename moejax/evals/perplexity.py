"""Loss, perplexity, bits per byte and expert use over a validation set."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from moejax.core import values
from moejax.data.batch import Batch
from moejax.model.build import Model
from moejax.parallel import mesh as meshes
from moejax.parallel import rules
from moejax.train import cross_entropy


@dataclasses.dataclass(frozen=True)
class Score:
  """What a model makes of a text.

  Attributes:
    loss: nats per target token, the end of each document included.
    accuracy: how often the most probable token was the right one.
    tokens: target tokens.
    count_NE: assignments of each expert by layer; None without experts.
  """

  loss: float
  accuracy: float
  tokens: int
  count_NE: np.ndarray | None

  @property
  def perplexity(self) -> float:
    """Exp of the mean loss (not the mean of exponentials)."""
    return math.exp(min(self.loss, 700.0))

  def bits_per_byte(self, num_bytes: float) -> float:
    """Bits to write the text with, per byte of its UTF-8."""
    return self.loss * self.tokens / math.log(2) / num_bytes


def make_step(model: Model) -> Callable[[Any, Batch], dict[str, Any]]:
  """A jitted (weights, batch) -> values that merge."""
  # A copy everywhere: every process of a run is to read the values.
  whole = rules.replicated(model.mesh)

  @functools.partial(jax.jit, out_shardings=whole)
  def step(weights: Any, batch: Batch) -> dict[str, Any]:
    decoder = model.bind(weights)
    out = decoder(batch.token_BL, batch.segment_BL, batch.position_BL)
    nll, _, correct_BL = cross_entropy.cross_entropy(
      out.x_BLD,
      decoder.head(),
      batch.target_BL,
      batch.weight_BL,
      chunk_tokens=cross_entropy.chunk_tokens(model.mesh),
      shards=meshes.batch_size(model.mesh),
    )
    found = {
      'loss': values.Mean(nll, jnp.sum(batch.weight_BL)),
      'accuracy': values.Mean.of(correct_BL, batch.weight_BL),
    }
    if model.config.num_moe:
      found['count_NE'] = out.record.stats['count_E']
    return found

  return step


def evaluate(
  step: Callable[[Any, Batch], dict[str, Any]],
  weights: Any,
  batches: Iterable[Batch],
) -> Score:
  """Runs all batches; averages over tokens, not over batches.

  Raises:
    ValueError: there is nothing to evaluate on.
  """
  total = None
  for batch in batches:
    found, before = step(weights, batch), total
    total = found if before is None else values.merge(before, found)
    # One batch ahead of the devices and no more: who counts the batches that
    # were taken then knows how many are done.
    jax.block_until_ready(before)
  if total is None:
    raise ValueError('no batch to evaluate on')
  tokens = int(total['loss'].weight)
  found = jax.device_get(values.finish(total))
  return Score(
    loss=float(found['loss']),
    accuracy=float(found['accuracy']),
    tokens=tokens,
    count_NE=found.get('count_NE'),
  )
