"""Score functions: from logits to the scores that gates are taken from.

A score function takes logits, of all experts or of the kept ones alone, along
the last dimension. It returns the scores, and probabilities that sum to 1 for
balance losses: the scores divided by their sum.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from moejax.core import errors
from moejax.moe import contract

Score = Callable[[jax.Array], tuple[jax.Array, jax.Array]]

# Below this logit softplus is the exponential, to float32's last digit.
LOW = -20.0

# The logit of an expert out of choice: finite, so that gradients are.
LEAST_LOGIT = -1e30

# The smallest divisor of gates. Released code adds 1e-20 to their sum instead,
# with which the gradient of the division overflows float32.
LEAST_SUM = 1e-15


def softmax(logits_TE: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The softmax, which most routers have."""
  score_TE = jax.nn.softmax(logits_TE, axis=-1)
  return score_TE, score_TE


def double_softmax(logits_TE: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Softmax of the softmax: nearly uniform scores.

  In LibMoE's XMoE the scorer ends in a softmax, which the layer then applies
  once more. It is here only to compare with LibMoE's published numbers.
  """
  return softmax(softmax(logits_TE)[0])


def sigmoid(logits_TE: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Sigma-MoE (arXiv 2310.10837), DeepSeek-V3 (arXiv 2412.19437)."""
  # sigmoid / sum of sigmoids, also where all of them underflow
  prob_TE = jax.nn.softmax(jax.nn.log_sigmoid(logits_TE), axis=-1)
  return jax.nn.sigmoid(logits_TE), prob_TE


def sqrt_softplus(logits_TE: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The square root of softplus: DeepSeek-V4 (report, section 2.1)."""
  high_TE = jnp.maximum(logits_TE, LOW)
  log_TE = jnp.where(
    logits_TE > LOW, 0.5 * jnp.log(jax.nn.softplus(high_TE)), 0.5 * logits_TE
  )
  return jnp.exp(log_TE), jax.nn.softmax(log_TE, axis=-1)


SCORES: dict[str, Score] = {
  'double_softmax': double_softmax,
  'sigmoid': sigmoid,
  'softmax': softmax,
  'sqrt_softplus': sqrt_softplus,
}


def renormalised(gate_TK: jax.Array) -> jax.Array:
  """Gates over their sum."""
  total_T1 = gate_TK.sum(axis=-1, keepdims=True)
  return gate_TK / jnp.maximum(total_T1, LEAST_SUM)


def check_k(k: float, num_experts: int) -> None:
  """Raises InputError if k is more than the number of experts."""
  if k > num_experts:
    raise errors.InputError(
      f'router.k={k} experts per token, but there are {num_experts} routed '
      f'experts; use at most {num_experts}'
    )


def check_gates(alone: bool, num_experts: int, setting: str, fix: str) -> None:
  """Raises InputError where a token's only gate is divided by itself.

  In that case every weight is 1 whatever the scores, and the scorer has no
  gradient. Shazeer et al. (2017, section 2.1) ask for k > 1 for that reason;
  DeepSeek's and Megatron's code do not renormalise a single gate.

  Args:
    alone: whether the config divides a single gate by itself.
    num_experts: E; with one expert no router needs training.
    setting: the keys and values that cause it, for the message.
    fix: the keys and values to set instead, for the message.
  """
  if alone and num_experts > 1:
    raise errors.InputError(
      f'{setting} gives every token the weight 1, whatever the router says, so '
      f'the router would not be trained; {fix}'
    )


def take(value_TE: jax.Array, expert_TK: jax.Array) -> jax.Array:
  """The values of the chosen experts, [T, K]."""
  return jnp.take_along_axis(value_TE, expert_TK, axis=-1)


def kept(
  gate_TK: jax.Array, is_used_TK: jax.Array | None, otherwise: float = 0.0
) -> jax.Array:
  """The gates, with `otherwise` for those that are not used; None: all are."""
  if is_used_TK is None:
    return gate_TK
  return jnp.where(is_used_TK, gate_TK, otherwise)


def largest(
  inputs: contract.RouterInput, score_TE: jax.Array, k: int
) -> jax.Array:
  """The ids of the k largest scores, as float32; E for padding."""
  _, expert_TK = jax.lax.top_k(jax.lax.stop_gradient(score_TE), k)
  nowhere = score_TE.shape[1]
  expert_TK = jnp.where(inputs.valid_T[:, None], expert_TK, nowhere)
  return expert_TK.astype(jnp.float32)
