"""Next-token loss plus the losses of the layers with experts."""

from typing import Any

import jax
import jax.numpy as jnp

from moejax.core import values
from moejax.data.batch import Batch
from moejax.model.build import Model
from moejax.moe import balance, layer
from moejax.parallel import mesh as meshes
from moejax.train import cross_entropy


def objective(
  model: Model,
  weights: Any,
  batch: Batch,
  row_B: jax.Array,
  key: jax.Array | None,
  *,
  total_weight: jax.Array,
  slope: Any = None,
) -> tuple[jax.Array, dict[str, Any]]:
  """The loss whose gradient a (micro-)batch contributes.

  Args:
    model: the structure.
    weights: its weights.
    batch: some rows of the global batch.
    row_B: which rows.
    key: random key of the step.
    total_weight: sum of the loss weights of the GLOBAL batch.
    slope: None if `batch` is the global batch. Else the derivative of the
      balance losses by their global sums: then the balance part is linear in
      this micro-batch's sums, its value has no meaning, and its gradients add
      up to the global batch's.

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
    shards=meshes.batch_size(model.mesh),
  )
  loss = nll / total_weight
  record = out.record
  if model.config.num_moe:
    loss = loss + _balance(model, record, slope)
  found = {
    'loss': values.Mean(nll, jnp.sum(batch.weight_BL)),
    'accuracy': values.Mean.of(correct_BL, batch.weight_BL),
  }
  return loss, {'values': found, 'record': record}


def _balance(model: Model, record: layer.Record, slope: Any) -> jax.Array:
  if slope is None:
    return balance.total(model.config.moe.balance, record.balance)[0]
  products = jax.tree.map(jnp.vdot, slope, record.balance)
  return sum(jax.tree.leaves(products), jnp.zeros(()))
