"""Shazeer's losses: how much importance and load vary between experts."""

import dataclasses

import jax
import jax.numpy as jnp

from moejax.core import fields
from moejax.moe import contract
from moejax.moe.balance import base, counts

EPSILON = 1e-10


def cv_squared(x_E: jax.Array, *, unbiased: bool = False) -> jax.Array:
  """The squared coefficient of variation: variance / (mean^2 + 1e-10).

  Args:
    x_E: numbers.
    unbiased: whether the variance divides by E - 1 instead of E.
  """
  num = x_E.shape[0]
  mean = jnp.mean(x_E)
  total = jnp.sum(jnp.square(x_E - mean))
  variance = total / (max(num - 1, 1) if unbiased else num)
  return variance / (mean**2 + EPSILON)


def _gates(
  inputs: contract.RouterInput, routing: contract.Routing
) -> jax.Array:
  if 'gate_TE' in routing.extra:
    return counts.over_tokens(inputs, routing.extra['gate_TE'])
  return counts.gates(routing)


def _probabilities(
  inputs: contract.RouterInput, routing: contract.Routing
) -> jax.Array:
  return counts.over_tokens(inputs, routing.prob_TE)


# (inputs, routing) -> the importance of each expert, [E]: a sum over tokens.
SOURCES = {'gates': _gates, 'probabilities': _probabilities}


@dataclasses.dataclass(frozen=True)
class Importance(base.Balance):
  """Importance loss: coefficient * CV(sum over tokens of the gates)^2.

  Shazeer et al. 2017 (arXiv 1701.06538, section 4, equations 6 and 7), over the
  global batch. 0 when balanced. The gates are those that outputs are weighted
  with, 0 for experts that are not chosen, as reported by the router (`gate_TE`)
  or else summed from the assignments.

  Attributes:
    coefficient: 0.01 is that of translation models and of tensor2tensor; the
      paper's language models have 0.1.
    source: 'probabilities' takes all probabilities, chosen or not, as V-MoE
      does (arXiv 2106.05974, appendix A).
    unbiased: variance over E - 1 (PyTorch's; tensor2tensor divides by E).
  """

  coefficient: float = base.loss_weight(0.01)
  source: str = fields.named(SOURCES, 'gates')
  unbiased: bool = False

  def observe(
    self, inputs: contract.RouterInput, routing: contract.Routing
  ) -> dict[str, jax.Array]:
    return {'importance_E': SOURCES[self.source](inputs, routing)}

  def loss(self, sums: dict[str, jax.Array]) -> jax.Array:
    cv2 = cv_squared(sums['importance_E'], unbiased=self.unbiased)
    return self.coefficient * cv2


@dataclasses.dataclass(frozen=True)
class Load(base.Balance):
  """Load loss: coefficient * CV(sum over tokens of P(x, i))^2.

  Shazeer et al. 2017 (arXiv 1701.06538, appendix A, equations 8 to 11), over
  the global batch. 0 when balanced. P(x, i) is the probability that expert i is
  chosen if its noise is drawn anew, which a router with noise reports as
  `load_TE`. Where it does not, load is the plain count of assignments, without
  gradient, as in tensor2tensor without noise.

  Attributes:
    coefficient: as in `importance`.
    unbiased: variance over E - 1.
  """

  coefficient: float = base.loss_weight(0.01)
  unbiased: bool = False

  def observe(
    self, inputs: contract.RouterInput, routing: contract.Routing
  ) -> dict[str, jax.Array]:
    if 'load_TE' not in routing.extra:
      return {'load_E': counts.count(routing)}
    return {'load_E': counts.over_tokens(inputs, routing.extra['load_TE'])}

  def loss(self, sums: dict[str, jax.Array]) -> jax.Array:
    return self.coefficient * cv_squared(sums['load_E'], unbiased=self.unbiased)
