"""Losses of the logits alone, whatever is chosen: entropy and z-loss."""

import dataclasses

import jax
import jax.numpy as jnp

from moejax.core import config
from moejax.moe import contract
from moejax.moe.balance import counts, scope


@dataclasses.dataclass(frozen=True)
class Entropy(scope.Scoped):
  """Sigma-MoE's loss: coefficient * sum_i p_i ln p_i of the mean softmax.

  Csordas et al. 2023 (arXiv 2310.10837, section 4.2): p is the mean over the
  global batch of softmax(logits), of the softmax even where the router takes
  the sigmoid. The sum is minus an entropy: balanced it is -coefficient * ln E,
  the least it can be.

  Attributes:
    coefficient: that of the released large runs.
    over: 'sequence' takes the mean over one sequence at a time.
  """

  coefficient: float = 0.001
  over: str = config.named(scope.SCOPES, 'batch')

  def sums(
    self, given: contract.RouterInput, routing: contract.Routing
  ) -> dict[str, jax.Array]:
    del routing
    prob_TE = jax.nn.softmax(given.logits_TE, axis=-1)
    valid_T1 = given.valid_T[:, None].astype(jnp.float32)
    return {
      'prob_E': counts.sum_by_sequence(given, prob_TE),
      'tokens': counts.sum_by_sequence(given, valid_T1)[:, 0],
    }

  def value(self, sums: dict[str, jax.Array]) -> jax.Array:
    p_E = sums['prob_E'] / jnp.maximum(sums['tokens'], 1)
    # Below this p ln p is 0 to float32, and the slope of ln has no bound.
    log_E = jnp.log(jnp.maximum(p_E, 1e-20))
    return self.coefficient * jnp.sum(p_E * log_E)


@dataclasses.dataclass(frozen=True)
class ZLoss(contract.Balance):
  """Router z-loss: coefficient * mean over tokens of logsumexp(logits)^2.

  ST-MoE (arXiv 2202.08906, section 3.3, equation 5), over the tokens of the
  global batch. It keeps logits small; it balances nothing. With logits of zero
  it is coefficient * (ln E)^2. The logits are as the scorers gave them, before
  offsets, noise and biases that a router adds.
  """

  coefficient: float = 0.001

  def observe(
    self, given: contract.RouterInput, routing: contract.Routing
  ) -> dict[str, jax.Array]:
    del routing
    z_T = jax.nn.logsumexp(given.logits_TE, axis=-1)
    return {
      'square': counts.over_tokens(given, jnp.square(z_T)),
      'tokens': counts.tokens(given),
    }

  def loss(self, sums: dict[str, jax.Array]) -> jax.Array:
    tokens = jnp.maximum(sums['tokens'], 1)
    return self.coefficient * sums['square'] / tokens
