"""The loss of a batch and all that is reported, with gradients or without."""

import jax
import jax.numpy as jnp

from helpers import tiny
from moejax.train import loss as losses
from moejax.train.config import TrainConfig


def found(model, batch, key, gradients=True):
  """(loss, report), behind the gradients of all weights if asked for."""
  whole = losses.GlobalBatch(jnp.float32(batch.weight_BL.sum()))
  row_B = jnp.arange(len(batch.token_BL), dtype=jnp.int32)

  @jax.jit
  def run(weights):
    def loss(weights):
      loss, report = losses.objective(
        model, TrainConfig(), weights, batch, row_B, key, whole
      )
      return loss, (loss, report)

    if not gradients:
      return loss(weights)[1]
    return jax.grad(loss, has_aux=True)(weights)

  return jax.device_get(run(tiny.weights(model)))
