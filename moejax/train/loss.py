"""Next-token loss plus the losses of the layers with experts."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from moejax.core import values
from moejax.data.batch import Batch
from moejax.model.build import Model
from moejax.moe import balance, layer
from moejax.parallel import mesh as meshes
from moejax.train import consistency as second
from moejax.train import cross_entropy


@flax.struct.dataclass
class Whole:
  """What the loss of a (micro-)batch takes from the global batch.

  Attributes:
    total_weight: sum of the loss weights of the GLOBAL batch.
    slope: None if the batch is the global batch. Else the derivative of the
      balance losses by their global sums: then the balance part is linear in
      this micro-batch's sums, its value has no meaning, and its gradients add
      up to the global batch's.
    consistency: above 0 the batch is passed twice, with other noise, and this
      times the passes' disagreement is added to the sum of both losses; see
      `train.consistency`. Reports (but for the overflow) and balance losses are
      the first pass's.
  """

  total_weight: jax.Array
  slope: Any = None
  consistency: float = flax.struct.field(pytree_node=False, default=0.0)


def objective(
  model: Model,
  weights: Any,
  batch: Batch,
  row_B: jax.Array,
  key: jax.Array | None,
  whole: Whole,
) -> tuple[jax.Array, dict[str, Any]]:
  """The loss whose gradient a (micro-)batch contributes.

  Args:
    model: the structure.
    weights: its weights.
    batch: some rows of the global batch.
    row_B: which rows.
    key: random key of the step.
    whole: what it takes from the global batch.

  Returns:
    The loss, and by name what to report: values that merge, and the record.
  """
  decoder = model.bind(weights)
  out = decoder(batch.token_BL, batch.segment_BL, batch.position_BL, row_B, key)
  nll, _, correct_BL = cross_entropy.cross_entropy(
    out.x_BLD,
    decoder.head(),
    batch.target_BL,
    batch.weight_BL,
    chunk_tokens=cross_entropy.CHUNK_TOKENS.get(
      model.mesh.devices.flat[0].platform, cross_entropy.CHUNK_ELSEWHERE
    ),
    shards=meshes.batch_size(model.mesh),
  )
  loss = nll / whole.total_weight
  record = out.record
  if model.config.num_moe:
    loss = loss + _balance(model, record, whole.slope)
  found = {
    'loss': values.Mean(nll, jnp.sum(batch.weight_BL)),
    'accuracy': values.Mean.of(correct_BL, batch.weight_BL),
  }
  if whole.consistency:
    nll, apart, other = second.second_pass(
      decoder, batch, row_B, key, out.x_BLD
    )
    if 'overflow' in record.stats:
      # What has no room in either pass is a reason to repeat the step.
      record.stats['overflow'] = record.stats['overflow'].merge(
        other.stats['overflow']
      )
    loss = loss + (nll + whole.consistency * apart) / whole.total_weight
    found['consistency'] = values.Mean(apart, jnp.sum(batch.weight_BL))
  return loss, {'values': found, 'record': record}


def _balance(model: Model, record: layer.Record, slope: Any) -> jax.Array:
  if slope is None:
    return balance.total(model.config.moe.balance, record.balance)[0]
  products = jax.tree.map(jnp.vdot, slope, record.balance)
  return sum(jax.tree.leaves(products), jnp.zeros(()))
