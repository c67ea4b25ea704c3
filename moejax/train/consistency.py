"""THOR's loss: the disagreement of two passes through different experts."""

from typing import Any

import jax
import jax.numpy as jnp

from moejax.data.batch import Batch
from moejax.model.decoder import Decoder
from moejax.moe import feed_forward

# Folded into the step's key to make that of the second pass.
SECOND = 1


def second_pass(
  decoder: Decoder,
  batch: Batch,
  row_B: jax.Array,
  key: jax.Array,
  first_BLD: jax.Array,
) -> tuple[jax.Array, jax.Array, feed_forward.Record]:
  """Cross-entropy of a second pass, and how far the passes disagree.

  THOR (arXiv 2110.04260, section 3.2): CR = (KL(p1, p2) + KL(p2, p1)) / 2,
  which is half the sum of (p1 - p2)(ln p1 - ln p2). The logits [B, L, V] of
  both passes exist as a whole.

  Args:
    decoder: bound to weights.
    batch: some rows.
    row_B: which rows of the global batch.
    key: of the step; the second pass draws different noise from it.
    first_BLD: hidden states of the first pass.

  Returns:
    Two sums over the target tokens, in nats: cross-entropy and CR; and the
    record of the second pass.
  """
  key = jax.random.fold_in(key, SECOND)
  out = decoder(batch.token_BL, batch.segment_BL, batch.position_BL, row_B, key)
  second_BLV = jax.nn.log_softmax(decoder.logits(out.x_BLD))
  first_BLV = jax.nn.log_softmax(decoder.logits(first_BLD))
  hit_BL = jnp.take_along_axis(second_BLV, batch.target_BL[..., None], -1)
  nll = -jnp.vdot(hit_BL[..., 0], batch.weight_BL)
  total = jnp.vdot(disagreement(first_BLV, second_BLV), batch.weight_BL)
  return nll, total, out.record


def disagreement(first_XV: Any, second_XV: Any) -> jax.Array:
  """CR of log probabilities, over the last dimension."""
  gap_XV = jnp.exp(first_XV) - jnp.exp(second_XV)
  return 0.5 * jnp.sum(gap_XV * (first_XV - second_XV), axis=-1)
