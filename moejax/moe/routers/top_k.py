"""Softmax over all routed experts, then the top k: DeepSeekMoE's router."""

import dataclasses

import jax

from moejax.core import errors
from moejax.moe import contract


@dataclasses.dataclass(frozen=True)
class TopK:
  """Token choice by the k largest softmax probabilities.

  DeepSeekMoE (arXiv 2401.06066, section 3.2, equations 9 to 11):
  s = softmax(u e) over all routed experts; the gate is s for the k largest and
  0 elsewhere. The kept gates are not renormalised, so they sum to less than 1.

  Attributes:
    k: routed experts per token.
    renormalise: divide the kept gates by their sum (Mixtral; not DeepSeekMoE).
  """

  k: int = 2
  renormalise: bool = False

  def check(self, num_experts: int) -> None:
    if not 1 <= self.k <= num_experts:
      raise errors.InputError(
        f'router.k={self.k} experts per token, but there are {num_experts} '
        f'routed experts; use 1 to {num_experts}'
      )

  def shrunk(self, num_experts: int) -> 'TopK':
    return dataclasses.replace(self, k=min(self.k, 2, num_experts))

  @property
  def experts_per_token(self) -> float:
    return self.k

  def __call__(self, given: contract.RouterInput) -> contract.Routing:
    prob_TE = jax.nn.softmax(given.logits_TE, axis=-1)
    gate_TK, expert_TK = jax.lax.top_k(prob_TE, self.k)
    if self.renormalise:
      gate_TK = gate_TK / gate_TK.sum(axis=-1, keepdims=True)
    return contract.token_choice(given, expert_TK, gate_TK, prob_TE)
