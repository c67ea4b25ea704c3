"""THOR's loss: the disagreement of two passes through different experts."""

from typing import Any

import jax
import jax.numpy as jnp

from moejax.data.batch import Batch
from moejax.model.decoder import Decoder
from moejax.moe import feed_forward

# Folded into the step's random key to make the key of the second pass.
SECOND = 1


def second_pass(
  decoder: Decoder,
  batch: Batch,
  row_B: jax.Array,
  key: jax.Array,
  first_BLD: jax.Array,
) -> tuple[jax.Array, jax.Array, feed_forward.Record]:
  """Cross-entropy of a second pass, and the disagreement of both passes.

  THOR (arXiv 2110.04260, section 3.2): CR = (KL(p1, p2) + KL(p2, p1)) / 2,
  which is half the sum over V of (p1 - p2)(ln p1 - ln p2). The logits
  [B, L, V] of both passes are in memory as a whole.

  Args:
    decoder: the decoder, bound to weights.
    batch: rows of the global batch.
    row_B: int32, index of each row in the global batch.
    key: random key of the step, from which the second pass draws other noise.
    first_BLD: hidden states of the first pass.

  Returns:
    The cross-entropy and CR, each summed over the target tokens, in nats; and
    the record of the second pass.
  """
  key = jax.random.fold_in(key, SECOND)
  out = decoder(
    batch.token_BL,
    batch.segment_BL,
    batch.position_BL,
    row_B,
    key,
    images=batch.images,
  )
  second_BLV = jax.nn.log_softmax(decoder.logits(out.x_BLD))
  first_BLV = jax.nn.log_softmax(decoder.logits(first_BLD))
  log_prob_BL1 = jnp.take_along_axis(second_BLV, batch.target_BL[..., None], -1)
  nll = -jnp.vdot(log_prob_BL1[..., 0], batch.weight_BL)
  total = jnp.vdot(disagreement(first_BLV, second_BLV), batch.weight_BL)
  return nll, total, out.record


def disagreement(first_XV: Any, second_XV: Any) -> jax.Array:
  """CR of two arrays of log probabilities [..., V], as [...], in nats."""
  gap_XV = jnp.exp(first_XV) - jnp.exp(second_XV)
  return 0.5 * jnp.sum(gap_XV * (first_XV - second_XV), axis=-1)
