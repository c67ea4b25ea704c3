"""The balance losses of all layers with experts of a model.

The layers of the decoder have those of `model.moe`, and the front end's have
their own: `model.vision.encoder.feed_forward.balance`, say. Names of metrics
begin with `balance/` for the decoder and with `vision/encoder/balance/` there.
"""

from typing import Any

import jax
import jax.numpy as jnp

from moejax.core import values
from moejax.model.config import ModelConfig
from moejax.moe import balance
from moejax.moe.feed_forward import Record
from moejax.vision import front_end

# Records or sums by the part of the front end that has the layers.
Vision = dict[str, Any]
Weights = dict[str, Any]


def sums(record: Record, vision: dict[str, Record]) -> tuple[Any, Vision]:
  """The sums of a (micro-)batch that the losses are made of, as one tree."""
  return record.balance, {part: r.balance for part, r in vision.items()}


def total(
  config: ModelConfig, sums: tuple[Any, Vision]
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The losses of the global batch, added up, and each by its metric's name.

  Args:
    config: of the model.
    sums: from `sums`, of the global batch.
  """
  of_decoder, of_vision = sums
  loss, by_name = jnp.zeros((), jnp.float32), dict[str, jax.Array]()
  if config.num_moe:
    moe = config.moe
    loss, own = balance.total(moe.balance, of_decoder, moe.used_choices)
    by_name |= {f'balance/{name}': value for name, value in own.items()}
  for part, part_sums in of_vision.items():
    added, own = config.vision.mixtures[part].losses(part_sums)
    loss = loss + added
    prefix = f'vision/{part}/balance/'
    by_name |= {f'{prefix}{name}': value for name, value in own.items()}
  return loss, by_name


def loss(
  config: ModelConfig, record: Record, vision: dict[str, Record], slope: Any
) -> jax.Array:
  """The balance part of the loss of a (micro-)batch.

  Args:
    config: of the model.
    record: of the decoder's layers.
    vision: of the front end's layers, by part.
    slope: see `loss.GlobalBatch.balance_slope`.
  """
  own = sums(record, vision)
  if slope is None:
    return total(config, own)[0]
  products = jax.tree.map(jnp.vdot, slope, own)
  return sum(jax.tree.leaves(products), jnp.zeros(()))


def after_step(
  config: ModelConfig, old: Weights, new: Weights, vision: dict[str, Record]
) -> Weights:
  """The front end's weights after a step; see `moe.after_step`.

  Args:
    config: of the model.
    old: the model's weights before the step.
    new: those that the optimiser returned.
    vision: records of the front end's layers, by part.

  Returns:
    All weights.
  """
  for part, record in vision.items():
    place = front_end.PLACES[part]
    before, after = (_at(tree, place) for tree in (old, new))
    if after:
      own = config.vision.mixtures[part].after_step(before, after, record)
      new = _with(new, place, own)
  return new


def _at(tree: Weights, place: tuple[str, ...]) -> Weights:
  """The tree below a place; {} if nothing is there."""
  for name in place:
    tree = tree.get(name, {})
  return tree


def _with(tree: Weights, place: tuple[str, ...], below: Weights) -> Weights:
  """The tree with another one below a place."""
  if not place:
    return below
  name, *rest = place
  return {**tree, name: _with(tree[name], tuple(rest), below)}


def zero(record: Any) -> Any:
  """A record of these shapes that is neutral in `add`."""
  zeros = lambda tree: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), tree)
  return Record(zeros(record.balance), values.empty(record.stats))


def add(a: Record, b: Record) -> Record:
  """The record of two micro-batches together."""
  return Record(
    jax.tree.map(jnp.add, a.balance, b.balance),
    values.merge(a.stats, b.stats),
  )
