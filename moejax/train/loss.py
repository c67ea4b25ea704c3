"""Next-token loss plus the losses of the layers with experts.

If the model has D modules of multi-token prediction, mtp_weight / D times the
sum of their losses is added. The loss of module k is

  -1 / T sum_i log P(t_{i+k+1})         (DeepSeek-V3, arXiv 2412.19437, (24))

T is the number of tokens of the next-token loss, for every module. Module k has
no target for the last k tokens of a document, so its sum has fewer terms
(T - k in equation 24).
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from moejax.core import scopes, values
from moejax.data.batch import Batch
from moejax.model import mtp
from moejax.model.build import Model
from moejax.model.decoder import Decoder, DecoderOutput
from moejax.train import (
  balance_losses,
  consistency,
  cross_entropy,
  distillation_loss,
)
from moejax.train.config import TrainConfig
from moejax.train.distillation import Teacher
from moejax.train.distillation_loss import Heads


@flax.struct.dataclass
class GlobalBatch:
  """What the loss of a (micro-)batch uses besides its rows.

  Attributes:
    total_weight: sum of the loss weights of the GLOBAL batch.
    balance_slope: None if the batch is the global batch. For a micro-batch, the
      derivative of the balance losses by their global sums. The balance part of
      the loss is then linear in the micro-batch's sums: its value has no
      meaning, but its gradients add up to those of the global batch.
    teacher: the teacher of `train.distillation`; None without one.
  """

  total_weight: jax.Array
  balance_slope: Any = None
  teacher: Teacher | None = None


def objective(
  model: Model,
  train: TrainConfig,
  weights: Any,
  batch: Batch,
  row_B: jax.Array,
  key: jax.Array | None,
  whole: GlobalBatch,
) -> tuple[jax.Array, dict[str, Any]]:
  """The loss whose gradient a (micro-)batch contributes.

  With `train.consistency` above 0 the batch is passed twice, with different
  noise. The losses of both passes are added, and their disagreement times
  `train.consistency` (`consistency.py`). Balance losses, and all reported
  values except the overflow, are those of the first pass. With a teacher, its
  divergence is added to the next-token loss of the first pass
  (`distillation_loss.py`).

  Args:
    model: the model without weights.
    train: the weights of the losses: `mtp_weight`, `consistency` and those in
      `distillation`.
    weights: the model's weights.
    batch: rows of the global batch.
    row_B: int32, index of each row in the global batch.
    key: random key of the step.
    whole: numbers of the global batch, and the teacher.

  Returns:
    The loss (a scalar), and a dictionary to report: 'values',
    metrics that merge, by name; 'record', that of the layers with experts;
    'vision', those of the front end's, by part.

  Raises:
    ValueError: `train.consistency` is above 0 and `key` is None.
  """
  decoder = model.bind(weights)
  further, out = passes(decoder, batch, row_B, key)
  loss = jnp.zeros(())
  reported: dict[str, Any] = {}
  for k, x_BLD in enumerate([out.x_BLD, *further]):
    target_BL, weight_BL = (
      mtp.ahead(x, batch.segment_BL, k)
      for x in (batch.target_BL, batch.weight_BL)
    )
    share = train.mtp_weight / len(further) if k else 1.0
    if k == 0 and whole.teacher is not None:
      heads = Heads(x_BLD, decoder.head(), *whole.teacher(batch, row_B))
      summed, own = _distilled(model, train, heads, target_BL, weight_BL)
    else:
      summed, own = _plain(model, decoder, x_BLD, target_BL, weight_BL)
    loss = loss + share * summed / whole.total_weight
    prefix = f'mtp_{k}_' if k else ''
    reported |= {f'{prefix}{name}': value for name, value in own.items()}
  record = out.record
  if model.config.num_moe or out.vision:
    loss = loss + balance_losses.loss(
      model.config, record, out.vision, whole.balance_slope
    )
  if train.consistency:
    if key is None:
      raise ValueError('without a key both passes would have the same noise')
    nll, disagreement, record_2 = consistency.second_pass(
      decoder, batch, row_B, key, out.x_BLD
    )
    if 'overflow' in record.stats:
      # A step is repeated if a buffer overflowed in either pass. The layers of
      # multi-token prediction, the last ones, are in the first pass alone.
      first_N, second_M = (
        r.stats['overflow'].total for r in (record, record_2)
      )
      record.stats['overflow'] = values.Sum(
        first_N.at[: len(second_M)].add(second_M)
      )
    loss = loss + (nll + train.consistency * disagreement) / whole.total_weight
    reported['consistency'] = values.Mean(
      disagreement, jnp.sum(batch.weight_BL)
    )
  return loss, {'values': reported, 'record': record, 'vision': out.vision}


def passes(
  decoder: Decoder, batch: Batch, row_B: jax.Array, key: jax.Array | None
) -> tuple[list[jax.Array], DecoderOutput]:
  """The forward pass of a training step, multi-token prediction included.

  Returns:
    Hidden states of each module of multi-token prediction, and the output of
    the decoder: see `Decoder.predict`.
  """
  rest = batch.segment_BL, batch.position_BL, row_B, key
  out = decoder(batch.token_BL, *rest, images=batch.images)
  if not decoder.config.mtp_layers:
    return [], out
  return decoder.predict(out, batch.target_BL, *rest)


@scopes.part('head')
def _plain(model, decoder, x_BLD, target_BL, weight_BL):
  """Sum of nll * weight in nats, and the values to report."""
  nll, _, correct_BL = cross_entropy.on_mesh(
    x_BLD, decoder.head(), target_BL, weight_BL, model.mesh
  )
  return nll, {
    'loss': values.Mean(nll, jnp.sum(weight_BL)),
    'accuracy': values.Mean.of(correct_BL, weight_BL),
  }


@scopes.part('head')
def _distilled(model, train, heads, target_BL, weight_BL):
  """As `_plain`, with the divergence from the teacher in the sum.

  `loss` stays the cross-entropy, and `distillation` is the divergence, without
  its weight; both are means in nats per token.
  """
  losses = distillation_loss.on_mesh(
    heads, target_BL, weight_BL, train.distillation, model.mesh
  )
  return losses.total, {
    'loss': values.Mean.of(losses.nll_BL, weight_BL),
    'accuracy': values.Mean.of(losses.correct_BL, weight_BL),
    'distillation': values.Mean.of(losses.divergence_BL, weight_BL),
  }
