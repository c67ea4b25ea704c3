"""Experts take the tokens above a threshold: expert choice that is causal."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from moejax.core import fields
from moejax.moe import contract
from moejax.moe.routers import any_number, scores


@dataclasses.dataclass(frozen=True)
class ExpertThreshold(contract.Router):
  """Expert e takes every token whose logit is above its threshold c_e.

  Expert Threshold routing (arXiv 2603.11535, section 3, equation 6): a token
  has 0 to E experts and is compared with no other token. Gates are sigmoids of
  the logits, not renormalised. The thresholds come from the balance part
  `threshold_ema`, as selection biases: expert e is used if the logit plus the
  biases is above 0, so c_e is 0 without that part.

  In the first `warmup_steps` of training each expert takes the L k / E largest
  logits of each sequence of L tokens instead (expert choice): thresholds of 0
  would leave some experts with all tokens and some with none. Those steps look
  at the whole sequence, evaluation never does. The paper's experts choose among
  the tokens of a micro-batch. The paper also bounds the load of an expert in
  training to 0.5 to 1.5 times k / E; here that is left to a dispatcher.

  The list of assignments is always T * E: see `any_number`.

  Attributes:
    k: experts per token on average, for counting FLOPs and for the warm-up.
      `threshold_ema.k` should be the same.
    warmup_steps: steps with expert choice, 4,000 in the paper; 0: none.
  """

  tokens_compete: ClassVar[bool] = True
  replays: ClassVar[bool] = True

  k: float = fields.number(1.0, above=0, at_most=10**6)
  warmup_steps: int = fields.number(4000, at_least=0, note='0: none')

  def check(self, num_experts: int) -> None:
    scores.check_k(self.k, num_experts)

  def shrunk(self, num_experts: int) -> 'ExpertThreshold':
    return dataclasses.replace(self, k=min(self.k, 2.0, num_experts))

  @property
  def experts_per_token(self) -> float:
    return self.k

  @property
  def counts_steps(self) -> bool:
    return self.warmup_steps > 0

  def __call__(self, inputs: contract.RouterInput) -> contract.Routing:
    gate_TE, prob_TE = scores.sigmoid(inputs.logits_TE)
    used_TE = inputs.biased(inputs.logits_TE) > 0
    if inputs.training and self.warmup_steps:
      is_warming = inputs.steps < self.warmup_steps
      used_TE = jnp.where(is_warming, self._largest(inputs), used_TE)
    return any_number.send(inputs, gate_TE, used_TE, prob_TE)

  def _largest(self, inputs: contract.RouterInput) -> jax.Array:
    """Whether a logit is among the expert's largest of a sequence, [T, E]."""
    num_experts = inputs.logits_TE.shape[1]
    length = inputs.row_length
    room = min(length, max(1, int(length * self.k / num_experts)))
    valid_T1 = inputs.valid_T[:, None]
    choice_TE = jnp.where(valid_T1, inputs.biased(inputs.logits_TE), -jnp.inf)
    choice_SLE = choice_TE.reshape(-1, length, num_experts)
    _, place_SEC = jax.lax.top_k(choice_SLE.swapaxes(1, 2), room)
    sequence_S = jnp.arange(len(place_SEC))
    used_SEL = jnp.zeros(choice_SLE.swapaxes(1, 2).shape, bool)
    used_SEL = used_SEL.at[
      sequence_S[:, None, None], jnp.arange(num_experts)[:, None], place_SEC
    ].set(True)
    return used_SEL.swapaxes(1, 2).reshape(-1, num_experts)
