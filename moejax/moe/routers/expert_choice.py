"""Expert choice: every expert takes its best tokens of a sequence."""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp

from moejax.core import errors, fields, varying
from moejax.moe import contract
from moejax.moe.routers import noise, scores, transport

# Iterations of the capped choice; the paper's "maximum of 100 iterations".
ITERATIONS = 100


@dataclasses.dataclass(frozen=True)
class ExpertChoice(contract.Router):
  """Experts choose tokens (arXiv 2202.09368, section 3.2, equations 1 and 2).

  P = softmax over the E experts; expert e takes the C = round(S * c / E) tokens
  of the sequence with the largest P[t, e], and weighs its output with that,
  not renormalised. So experts are balanced by construction, and a token has
  any number of experts, 0 to E, c on average.

  Where we differ: experts choose within one sequence, where the paper takes a
  device's batch, so the result depends on neither mesh nor micro-batches. C
  counts padding in S but no padding is chosen: an expert that finds fewer
  tokens leaves places empty.

  NOT CAUSAL: whether a token is chosen depends on later tokens, in training
  and evaluation, so that a causal language model sees the future through its
  routing (arXiv 2408.15664, section 5.2: 50 bits a token).

  A replay is a token choice of the recorded experts, weighed with P.

  With `max_per_token` = b, experts choose by the plan A that maximises
  sum(P * A) + entropy * H(A), where each expert's column sums to C, no token's
  row to more than b, and A <= 1 (section 3.3). Dykstra's alternating
  projections compute it. With the paper's entropy 0.001, its 100 iterations do
  not converge (for 256 random tokens, E=16, c=b=2, a sixth of the choices is
  over the cap). So a token keeps its b most probable experts, a rule that is
  not in the paper, and the other places stay empty. Entropies around 0.003 to
  0.01 leave fewer places empty.

  Attributes:
    capacity_factor: c, experts per token on average.
    max_per_token: most experts of a token; 0 means any number.
    entropy: weight of the entropy in the capped choice, lambda in the paper.
    noise: standard deviation, times E, of Gaussian noise on the logits in
      training; 1 in V-MoE's noisy expert choice.
    not_causal: a causal language model refuses this router unless this says
      that it is meant.
  """

  tokens_compete: ClassVar[bool] = True
  replays: ClassVar[bool] = True
  follows_selection_bias: ClassVar[bool] = False
  keeps_experts: ClassVar[str] = (
    'its experts choose tokens, each the more the fewer experts there are, so '
    'no token has a choice from which an expert could be taken'
  )

  capacity_factor: float = fields.number(2.0, above=0, at_most=1000)
  max_per_token: int = fields.number(0, at_least=0, note='0: any number')
  entropy: float = fields.number(0.001, above=0, at_most=100)
  noise: float = fields.number(0.0, at_least=0, at_most=100)
  not_causal: bool = False

  def __post_init__(self):
    super().__post_init__()
    if 0 < self.max_per_token < self.capacity_factor:
      raise errors.InputError(
        f'max_per_token={self.max_per_token} must be 0, for any number, or at '
        f'least capacity_factor={self.capacity_factor}'
      )

  def check(self, num_experts: int) -> None:
    if self.capacity_factor > num_experts:
      raise errors.InputError(
        f'router.capacity_factor={self.capacity_factor} experts per token, but '
        f'there are {num_experts}'
      )

  def shrunk(self, num_experts: int) -> 'ExpertChoice':
    factor = min(self.capacity_factor, num_experts)
    return dataclasses.replace(self, capacity_factor=factor)

  @property
  def experts_per_token(self) -> float:
    return self.capacity_factor

  @property
  def causal(self) -> bool:
    return False

  def capacity(self, row_length: int, num_experts: int) -> int:
    """C, the tokens that an expert takes of a sequence."""
    tokens = round(row_length * self.capacity_factor / num_experts)
    return min(max(tokens, 1), row_length)

  def __call__(self, inputs: contract.RouterInput) -> contract.Routing:
    size, num_experts = inputs.row_length, inputs.logits_TE.shape[1]
    capacity = self.capacity(size, num_experts)
    logits_TE = inputs.logits_TE
    if inputs.training and self.noise:
      noise_TE = noise.normal(inputs, num_experts)
      logits_TE = logits_TE + self.noise / num_experts * noise_TE
    prob_TE = jax.nn.softmax(logits_TE, axis=-1)
    if inputs.replayed is not None:
      expert_TK = inputs.replayed.ids
      weight_TK = scores.take(prob_TE, expert_TK)
      return contract.token_choice(inputs, expert_TK, weight_TK, prob_TE)
    # No selection bias: it would raise all tokens of an expert alike.
    score_TE = jax.lax.stop_gradient(prob_TE)
    score_GSE = transport.by_sequence(inputs, score_TE)
    valid_GS = transport.by_sequence(inputs, inputs.valid_T)
    choose = jax.vmap(lambda score, valid: self._choose(score, valid, capacity))
    place_GEC, used_GEC = choose(score_GSE, valid_GS)
    # Best first: an expert with less room keeps its best.
    place_CGE, used_CGE = (jnp.moveaxis(x, 2, 0) for x in (place_GEC, used_GEC))
    token_CGE = place_CGE + size * jnp.arange(len(valid_GS))[:, None]
    expert_CGE = jnp.broadcast_to(jnp.arange(num_experts), token_CGE.shape)
    weight_CGE = prob_TE[token_CGE, expert_CGE]
    return contract.Routing(
      token_A=token_CGE.reshape(-1).astype(jnp.int32),
      expert_A=jnp
      .where(used_CGE, expert_CGE, num_experts)
      .reshape(-1)
      .astype(jnp.int32),
      weight_A=jnp.where(used_CGE, weight_CGE, 0.0).reshape(-1),
      prob_TE=prob_TE,
      group_size=size,
    )

  def _choose(self, score_SE, valid_S, capacity):
    """The tokens that each expert takes of one sequence.

    Returns:
      place_EC, positions in the sequence, best first; and used_EC, bool, False
      for a place that stays empty.
    """
    by_SE = score_SE
    if self.max_per_token:
      by_SE = capped_plan(
        score_SE / self.entropy, valid_S, capacity, self.max_per_token
      )
    by_ES = jnp.where(valid_S, by_SE.T, -jnp.inf)
    place_EC = jax.lax.top_k(by_ES, capacity)[1]
    used_EC = valid_S[place_EC]
    if self.max_per_token:
      experts_E1 = jnp.arange(score_SE.shape[1])[:, None]
      taken_SE = (
        jnp.zeros(score_SE.shape, bool).at[place_EC, experts_E1].set(used_EC)
      )
      kept_SE = _keep_best(score_SE, taken_SE, self.max_per_token)
      used_EC = kept_SE[place_EC, experts_E1]
    return place_EC, used_EC


def capped_plan(
  score_SE: jax.Array, valid_S: jax.Array, capacity: int, most: int
) -> jax.Array:
  """Log of the A with the largest sum(score * A) + H(A) under constraints.

  Every expert's column sums to `capacity`, or to less where there are too few
  tokens; no token's row sums to more than `most`; no entry exceeds 1. By
  Dykstra's projections in the Kullback-Leibler geometry, in logarithms.
  """
  num_tokens, num_experts = score_SE.shape
  score_SE = jnp.where(valid_S[:, None], score_SE, -jnp.inf)

  def body(_, carry):
    plan_SE, row_S1, box_SE = carry
    mass_E = jax.nn.logsumexp(plan_SE, axis=0)
    plan_SE = plan_SE + jnp.where(
      jnp.isfinite(mass_E), math.log(capacity) - mass_E, 0.0
    )
    # Dykstra: each inequality undoes its last correction before a new one.
    plan_SE = plan_SE + row_S1
    mass_S1 = jax.nn.logsumexp(plan_SE, axis=1, keepdims=True)
    row_S1 = jnp.maximum(mass_S1 - math.log(most), 0.0)
    plan_SE = plan_SE - row_S1 + box_SE
    box_SE = jnp.maximum(plan_SE, 0.0)
    return plan_SE - box_SE, row_S1, box_SE

  start = (score_SE, jnp.zeros((num_tokens, 1)), jnp.zeros_like(score_SE))
  varied = tuple(varying.like(x, score_SE, valid_S) for x in start)
  return jax.lax.fori_loop(0, ITERATIONS, body, varied)[0]


def _keep_best(score_SE, taken_SE, most):
  """Of the experts that took a token, the `most` best scored; bool [S, E]."""
  score_SE = jnp.where(taken_SE, score_SE, -jnp.inf)
  order_SE = jnp.argsort(-score_SE, axis=1, stable=True)
  return taken_SE & (jnp.argsort(order_SE, axis=1) < most)
