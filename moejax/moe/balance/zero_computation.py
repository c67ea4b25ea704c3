"""Balance between experts with weights and those without computation.

The last `num_zero` of a router's choices are without computation.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from moejax.core import errors, fields
from moejax.moe import contract
from moejax.moe.balance import base, counts, load, scope


def check_zero(num_zero: int, num_experts: int) -> None:
  """Raises InputError unless some of the choices have weights."""
  if not 0 <= num_zero < num_experts:
    raise errors.InputError(
      f'num_zero={num_zero} must be 0 to {num_experts - 1}: it is the number '
      f'of choices without computation, of {num_experts} choices'
    )


@dataclasses.dataclass(frozen=True)
class Weighted(base.Balance):
  """MoE++'s heterogeneous balance loss: beta * sum_i eta_i f_i P_i.

  Jin et al. 2024 (arXiv 2410.07348, section 3.3, equation 7): f_i is the share
  of tokens that choose expert i, P_i the mean probability; eta is 1 for experts
  with weights and tau for zero-computation experts, so a smaller tau gives
  these more tokens. The loss has no factor N and no 1 / K: balanced, with K
  choices of N and eta 1, it is beta * K / N. It is over the global batch.

  Attributes:
    beta: 0.01 in the paper.
    tau: 0.75 in most of the paper; swept in its table 3.
    num_zero: number of zero-computation experts, which are the last choices.
  """

  beta: float = base.loss_weight(0.01)
  tau: float = fields.number(0.75, above=0, at_most=1000)
  num_zero: int = fields.number(0, at_least=0)

  def check(self, num_experts: int) -> None:
    check_zero(self.num_zero, num_experts)

  def shrunk(self, num_experts: int) -> 'Weighted':
    num_zero = min(self.num_zero, num_experts - 1)
    return dataclasses.replace(self, num_zero=num_zero)

  def observe(
    self, inputs: contract.RouterInput, routing: contract.Routing
  ) -> dict[str, jax.Array]:
    return {
      'count_E': counts.count(routing),
      'prob_E': counts.over_tokens(inputs, routing.prob_TE),
      'tokens': counts.tokens(inputs),
    }

  def loss(self, sums: dict[str, jax.Array]) -> jax.Array:
    tokens = jnp.maximum(sums['tokens'], 1)
    f_E, p_E = sums['count_E'] / tokens, sums['prob_E'] / tokens
    is_zero_E = jnp.arange(len(f_E)) >= len(f_E) - self.num_zero
    eta_E = jnp.where(is_zero_E, self.tau, 1.0)
    return self.beta * jnp.sum(eta_E * f_E * p_E)


@dataclasses.dataclass(frozen=True)
class Groups(scope.Scoped):
  """LongCat-Flash's loss between groups: alpha * sum_j f_j P_j.

  LongCat-Flash (arXiv 2509.01322, section 2.1): D groups of consecutive experts
  with weights, and one more group of all identity experts. P_j is the mean
  probability of the group. With s the share of assignments that experts with
  weights are to have (the report's K_e / K),

    f_j     = D / (s K T) * (assignments to group j)        for the D groups
    f_{D+1} = 1 / ((1 - s) K T) * (assignments to identity experts)

  so at the target shares all f are 1 and the loss is alpha. K T is the number
  of assignments. The report was read second-hand, and the first line is
  inferred from the second. The report also fits alpha to the size of gradients
  (a tenth of those of the language loss); the default here is our own.

  Attributes:
    alpha: coefficient.
    num_groups: D.
    num_zero: number of identity experts, which are the last choices.
    ffn_share: s; without identity experts it is 1.
    over: scope of the loss; 'sequence' in the report.
  """

  alpha: float = base.loss_weight(1e-3)
  num_groups: int = fields.number(1, at_least=1)
  num_zero: int = fields.number(0, at_least=0)
  ffn_share: float = fields.number(2 / 3, above=0, below=1)
  over: str = fields.named(scope.SCOPES, 'sequence')

  def check(self, num_experts: int) -> None:
    check_zero(self.num_zero, num_experts)
    load.check_groups(self.num_groups, num_experts - self.num_zero)

  def shrunk(self, num_experts: int) -> 'Groups':
    num_zero = min(self.num_zero, num_experts - 1)
    groups = math.gcd(self.num_groups, num_experts - num_zero)
    return dataclasses.replace(self, num_zero=num_zero, num_groups=groups)

  def sums(
    self, inputs: contract.RouterInput, routing: contract.Routing
  ) -> dict[str, jax.Array]:
    return counts.by_sequence(inputs, routing)

  def value(self, sums: dict[str, jax.Array]) -> jax.Array:
    count_E, prob_E = sums['count_E'], sums['prob_E']
    with_weights = len(count_E) - self.num_zero
    share = self.ffn_share if self.num_zero else 1.0
    assignments = jnp.maximum(jnp.sum(count_E), 1)
    group = lambda x_E: x_E[:with_weights].reshape(self.num_groups, -1).sum(1)
    f_G = group(count_E) * self.num_groups / (share * assignments)
    total = jnp.sum(f_G * group(prob_E))
    if self.num_zero:
      f_zero = jnp.sum(count_E[with_weights:]) / ((1 - share) * assignments)
      total += f_zero * jnp.sum(prob_E[with_weights:])
    return self.alpha * total / jnp.maximum(sums['tokens'], 1)
