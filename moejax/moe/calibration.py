"""Calibration sums: what the experts of a layer do with the tokens of a batch.

`of` makes them from the routes of a layer, on the devices, so that a pass over
a text brings [E] numbers per batch and layer to the host, and none per token.
The names are those of `moejax.compress.statistics.ExpertStatistics`.
"""

import jax
import jax.numpy as jnp

from moejax.moe.replay import NOWHERE
from moejax.moe.routers import scores
from moejax.moe.routes import Routes, RoutesRequest

UNROLLED = 16  # experts of a token up to which a loop over them is unrolled


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
  and padding are not counted. `logit_gram_EE` is summed over all tokens; a
  place that the layer has no expert for (`moe.uneven`) has logits of 0 in it.

  Args:
    routes: of the layer, with logits and outputs, of all ranks.
    x_BLD: the residual stream before the layer's feed-forward.
    added_BLD: what the routed experts add to it.
    valid_BL: bool; False for padding.
    num_experts: E, number of experts with weights.
  """
  assert routes.norm_BLK is not None
  assert routes.logits_BLE is not None
  expert_BLK = jnp.where(routes.dropped_BLK, NOWHERE, routes.expert_BLK)
  by_expert = lambda x_BLK: _by_expert(x_BLK, expert_BLK, num_experts)
  gate_BLK, norm_BLK = routes.weight_BLK, routes.norm_BLK
  turn_T = turn(x_BLD, added_BLD).reshape(-1)
  # The plain sum over tokens, and the sum with their turns.
  sums_ST = jnp.stack([jnp.ones_like(turn_T), turn_T])
  over_tokens = lambda x_BLK: _dot('ST,TE->SE', sums_ST, by_expert(x_BLK))
  count_E, _ = over_tokens(jnp.ones_like(gate_BLK))
  norm_E, _ = over_tokens(norm_BLK)
  gate_E, gate_token_E = over_tokens(gate_BLK)
  gate_norm_E, easy_ep_E = over_tokens(gate_BLK * norm_BLK)
  logits_BLE = routes.logits_BLE[..., :num_experts]
  counted_BLE = valid_BL[..., None] & (logits_BLE > scores.LEAST_LOGIT)
  logits_BLE = jnp.where(counted_BLE, logits_BLE, 0)
  sums = {
    'count_E': count_E,
    'gate_E': gate_E,
    'norm_E': norm_E,
    'gate_norm_E': gate_norm_E,
    'gate_token_E': gate_token_E,
    'easy_ep_E': easy_ep_E,
    'logit_gram_EE': _dot('BLE,BLF->EF', logits_BLE, logits_BLE),
  }
  if routes.gram_BEE is not None:
    sums['output_gram_EE'] = jnp.sum(routes.gram_BEE, axis=0)
  return sums


def _by_expert(
  x_BLK: jax.Array, expert_BLK: jax.Array, num_experts: int
) -> jax.Array:
  """Numbers of a token's experts at the experts' places, [T, E]; 0 elsewhere.

  Args:
    x_BLK: a number for each of a token's experts.
    expert_BLK: the experts; other ids go nowhere.
    num_experts: E.
  """
  x_TK, expert_TK = (x.reshape(-1, x.shape[-1]) for x in (x_BLK, expert_BLK))
  at_E, out_TE = jnp.arange(num_experts), jnp.zeros((len(x_TK), num_experts))

  def add(k: jax.Array | int, out_TE: jax.Array) -> jax.Array:
    hit_TE = expert_TK[:, k, None] == at_E
    return out_TE + jnp.where(hit_TE, x_TK[:, k, None], 0)

  # Comparisons, since CPUs scatter one number after the other.
  if x_TK.shape[1] > UNROLLED:
    return jax.lax.fori_loop(0, x_TK.shape[1], add, out_TE)
  for k in range(x_TK.shape[1]):
    out_TE = add(k, out_TE)
  return out_TE


def _dot(pattern: str, *xs: jax.Array) -> jax.Array:
  """A product in full float32."""
  return jnp.einsum(pattern, *xs, precision=jax.lax.Precision.HIGHEST)


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
