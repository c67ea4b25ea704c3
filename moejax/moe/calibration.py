"""Calibration sums: what the experts of a layer do with the tokens of a batch.

`of` makes them from the routes of a layer, on the devices, so that a pass over
a text brings [E] numbers per batch and layer to the host, and none per token.
The names are those of `moejax.compress.statistics.ExpertStatistics`.
"""

import jax
import jax.numpy as jnp

from moejax.moe.routes import Routes, RoutesRequest

# Sums over the tokens that activate an expert, [E].
BY_EXPERT = (
  'count_E',
  'gate_E',
  'norm_E',
  'gate_norm_E',
  'gate_token_E',
  'easy_ep_E',
)


def request(*, output_gram: bool = False) -> RoutesRequest:
  """Asks a model for the calibration sums of its layers with routed experts.

  Args:
    output_gram: whether the dot products of the experts' outputs are summed
      too, for which every expert computes every token.
  """
  return RoutesRequest(
    logits=True, outputs=True, output_gram=output_gram, summed=True
  )


def of(
  routes: Routes,
  x_BLD: jax.Array,
  added_BLD: jax.Array,
  valid_BL: jax.Array,
  num_experts: int,
) -> dict[str, jax.Array]:
  """The sums of one layer over the tokens of the global batch, float32.

  Assignments that were dropped, or that went to a choice without computation,
  and padding are not counted. `logit_gram_EE` is summed over all tokens.

  Args:
    routes: of the layer, with logits and outputs, of all ranks.
    x_BLD: the residual stream before the layer's feed-forward.
    added_BLD: what the routed experts add to it.
    valid_BL: bool; False for padding.
    num_experts: E, number of experts with weights.
  """
  assert routes.norm_BLK is not None
  assert routes.logits_BLE is not None
  ran_BLK = (routes.expert_BLK >= 0) & (routes.expert_BLK < num_experts)
  ran_BLK &= ~routes.dropped_BLK
  gate_BLK, norm_BLK = routes.weight_BLK, routes.norm_BLK
  turn_BL1 = turn(x_BLD, added_BLD)[..., None]
  summands = (
    jnp.ones_like(gate_BLK),
    gate_BLK,
    norm_BLK,
    gate_BLK * norm_BLK,
    gate_BLK * turn_BL1,
    gate_BLK * norm_BLK * turn_BL1,
  )
  summand_BLKS = jnp.where(ran_BLK[..., None], jnp.stack(summands, axis=-1), 0)
  sum_ES = jax.ops.segment_sum(
    summand_BLKS.reshape(-1, len(summands)),
    jnp.where(ran_BLK, routes.expert_BLK, num_experts).reshape(-1),
    num_experts + 1,
  )
  logits_BLE = jnp.where(
    valid_BL[..., None], routes.logits_BLE[..., :num_experts], 0
  )
  sums = dict(zip(BY_EXPERT, sum_ES[:num_experts].T, strict=True))
  sums['logit_gram_EE'] = jnp.einsum(
    'BLE,BLF->EF', logits_BLE, logits_BLE, precision=jax.lax.Precision.HIGHEST
  )
  if routes.gram_BEE is not None:
    sums['output_gram_EE'] = jnp.sum(routes.gram_BEE, axis=0)
  return sums


def turn(x_BLD: jax.Array, added_BLD: jax.Array) -> jax.Array:
  """turn_BL: 1 - cos(x, x + added), EASY-EP's token contribution.

  The source is arXiv 2504.06792, section 3.2. For unit vectors u and v,
  1 - cos(u, v) is |u - v|^2 / 2. Computed so, it is never below 0, and no
  digits are lost where the two directions are almost the same. The cosine with
  a zero vector counts as 0.

  Args:
    x_BLD: the residual stream.
    added_BLD: what is added to it.
  """
  x_BLD = x_BLD.astype(jnp.float32)
  ends = x_BLD, x_BLD + added_BLD.astype(jnp.float32)
  norms = [jnp.linalg.norm(x, axis=-1, keepdims=True) for x in ends]
  u_BLD, v_BLD = (
    x / jnp.where(norm == 0, 1, norm)
    for x, norm in zip(ends, norms, strict=True)
  )
  turn_BL = jnp.sum(jnp.square(u_BLD - v_BLD), axis=-1) / 2
  return jnp.where((norms[0] * norms[1])[..., 0] == 0, 1.0, turn_BL)
