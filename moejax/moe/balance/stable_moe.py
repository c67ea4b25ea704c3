"""The losses of the first stage of StableMoE."""

import dataclasses

import jax
import jax.numpy as jnp

from moejax.moe import contract
from moejax.moe.balance import base, counts


@dataclasses.dataclass(frozen=True)
class StableMoELoss(base.Balance):
  """StableMoE's losses of its first stage: balance and distillation.

  Dai et al. 2022 (arXiv 2204.08396, section 3.1):

    balance       sum_i (n_i - n) / n * sum over the tokens of i of s_it
    distillation  cross-entropy of the small router against the chosen expert

  n_i are the assignments of expert i, n their mean, s_it the sigmoid score of
  the expert that the token was sent to. Balanced the first is 0.

  Both are sums over tokens in the released code, beside a cross-entropy of text
  that is a sum too; here that is a mean over tokens, and so are these. The
  router reports `stable_TE` (s_it at the chosen expert, 0 elsewhere) and
  `distill_T`, and zeros in its second stage.

  Attributes:
    coefficient: of the balance loss.
    distillation: coefficient of the cross-entropy.
  """

  coefficient: float = base.loss_weight(0.3)
  distillation: float = base.loss_weight(0.3)

  def observe(
    self, inputs: contract.RouterInput, routing: contract.Routing
  ) -> dict[str, jax.Array]:
    score_TE = counts.extra(routing, 'stable_TE')
    distill_T = counts.extra(routing, 'distill_T')
    return {
      'count_E': counts.count(routing),
      'score_E': counts.over_tokens(inputs, score_TE),
      'distill': counts.over_tokens(inputs, distill_T),
      'tokens': counts.tokens(inputs),
    }

  def loss(self, sums: dict[str, jax.Array]) -> jax.Array:
    count_E = sums['count_E']
    mean = jnp.mean(count_E)
    excess_E = (count_E - mean) / jnp.where(mean > 0, mean, 1.0)
    total = (
      self.coefficient * jnp.sum(excess_E * sums['score_E'])
      + self.distillation * sums['distill']
    )
    return total / jnp.maximum(sums['tokens'], 1)
