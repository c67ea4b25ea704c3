"""The losses that bring the selectors of DSelect-k to a decision."""

import dataclasses

import jax
import jax.numpy as jnp

from moejax.moe import contract
from moejax.moe.balance import base, counts


@dataclasses.dataclass(frozen=True)
class SelectorEntropy(base.Balance):
  """DSelect-k's losses: its selectors' entropy, and codes that name no expert.

  Hazimeh et al. 2021 (arXiv 2106.03760, section 3). The loss has two terms. The
  entropy of each of the k single-expert selectors pushes the selector to one
  expert. Where E is no power of two, 1 / (mass on real experts) keeps the
  selectors at codes that have an expert. The router reports both terms per
  token: `selector_entropy_T` and `unreachable_T`.

  The released code sums the entropy over the batch, times 1e-6 by default. Here
  the entropy is averaged over tokens, so that it does not grow with the batch.
  The same loss therefore has the released coefficient times the number of
  tokens in its batch here. The default coefficient is our own.

  Attributes:
    coefficient: of the entropy.
    unreachable: coefficient of 1 / (mass on real experts); 1 in the released
      code.
  """

  coefficient: float = base.loss_weight(0.001)
  unreachable: float = base.loss_weight(1.0)

  def observe(
    self, inputs: contract.RouterInput, routing: contract.Routing
  ) -> dict[str, jax.Array]:
    entropy_T = counts.extra(routing, 'selector_entropy_T')
    unreachable_T = counts.extra(routing, 'unreachable_T')
    return {
      'entropy': counts.over_tokens(inputs, entropy_T),
      'unreachable': counts.over_tokens(inputs, unreachable_T),
      'tokens': counts.tokens(inputs),
    }

  def loss(self, sums: dict[str, jax.Array]) -> jax.Array:
    total = (
      self.coefficient * sums['entropy']
      + self.unreachable * sums['unreachable']
    )
    return total / jnp.maximum(sums['tokens'], 1)
