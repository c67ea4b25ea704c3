"""Losses of the scores alone, not of the choices: entropies and z-loss."""

import dataclasses

import jax
import jax.numpy as jnp

from moejax.core import fields
from moejax.moe import contract
from moejax.moe.balance import base, counts, scope


@dataclasses.dataclass(frozen=True)
class Entropy(scope.Scoped):
  """Sigma-MoE's loss: coefficient * sum_i p_i ln p_i of the mean softmax.

  Csordas et al. 2023 (arXiv 2310.10837, section 4.2): p is the mean over the
  global batch of softmax(logits), of the softmax even where the router takes
  the sigmoid. The sum is minus an entropy: balanced it is -coefficient * ln E,
  the least it can be.

  Attributes:
    coefficient: 0.001 in the released large runs.
    over: 'batch' takes p over the global batch; 'sequence' takes p over each
      sequence, and the mean of their losses.
  """

  coefficient: float = base.loss_weight(0.001)
  over: str = fields.named(scope.SCOPES, 'batch')

  def sums(
    self, inputs: contract.RouterInput, routing: contract.Routing
  ) -> dict[str, jax.Array]:
    del routing
    prob_TE = jax.nn.softmax(inputs.logits_TE, axis=-1)
    valid_T1 = inputs.valid_T[:, None].astype(jnp.float32)
    return {
      'prob_E': counts.sum_by_sequence(inputs, prob_TE),
      'tokens': counts.sum_by_sequence(inputs, valid_T1)[:, 0],
    }

  def value(self, sums: dict[str, jax.Array]) -> jax.Array:
    p_E = sums['prob_E'] / jnp.maximum(sums['tokens'], 1)
    # Below 1e-20 p ln p is 0 to float32, and the slope of ln has no bound.
    log_E = jnp.log(jnp.maximum(p_E, 1e-20))
    return self.coefficient * jnp.sum(p_E * log_E)


@dataclasses.dataclass(frozen=True)
class TokenEntropy(base.Balance):
  """Sharpens routing: coefficient * mean over tokens of -sum_i p_ti ln p_ti.

  The loss of dynamic routing (arXiv 2403.07652, section 3), for the router
  `top_p`: without it probabilities flatten, since more experts lower the
  language modelling loss, and more experts are then needed to reach p. p_ti
  are the router's probabilities. The loss balances nothing: it is 0 if every
  token has one expert with probability 1, whichever that is. Where all experts
  are equally probable it is coefficient * ln E, its largest value.

  Attributes:
    coefficient: the paper's beta.
  """

  coefficient: float = base.loss_weight(1e-4)

  def observe(
    self, inputs: contract.RouterInput, routing: contract.Routing
  ) -> dict[str, jax.Array]:
    # Below 1e-20 p ln p is 0 to float32, and the slope of ln has no bound.
    log_TE = jnp.log(jnp.maximum(routing.prob_TE, 1e-20))
    entropy_T = -jnp.sum(routing.prob_TE * log_TE, axis=-1)
    return {
      'entropy': counts.over_tokens(inputs, entropy_T),
      'tokens': counts.tokens(inputs),
    }

  def loss(self, sums: dict[str, jax.Array]) -> jax.Array:
    tokens = jnp.maximum(sums['tokens'], 1)
    return self.coefficient * sums['entropy'] / tokens


@dataclasses.dataclass(frozen=True)
class ZLoss(base.Balance):
  """Router z-loss: coefficient * mean over tokens of logsumexp(logits)^2.

  ST-MoE (arXiv 2202.08906, section 3.3, equation 5), over the tokens of the
  global batch. It keeps logits small; it balances nothing. With logits of zero
  it is coefficient * (ln E)^2. The logits are those of the scorer, without
  offsets, noise and biases that a router adds.

  Attributes:
    coefficient: of the mean square above.
  """

  coefficient: float = base.loss_weight(0.001)

  def observe(
    self, inputs: contract.RouterInput, routing: contract.Routing
  ) -> dict[str, jax.Array]:
    del routing
    z_T = jax.nn.logsumexp(inputs.logits_TE, axis=-1)
    return {
      'square': counts.over_tokens(inputs, jnp.square(z_T)),
      'tokens': counts.tokens(inputs),
    }

  def loss(self, sums: dict[str, jax.Array]) -> jax.Array:
    tokens = jnp.maximum(sums['tokens'], 1)
    return self.coefficient * sums['square'] / tokens
