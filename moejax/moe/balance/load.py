"""DeepSeek's balance losses: load times probability of experts and devices."""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp

from moejax.core import errors, fields
from moejax.moe import contract, stats
from moejax.moe.balance import base, counts, scope


def f_and_p(sums: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
  """DeepSeekMoE's f_i and P_i (equations 13 and 14).

  f_i = N' / (K' T) * (tokens that select expert i); P_i = mean of s_i. K' T is
  the number of assignments. Both are taken over tokens that are not padding.
  """
  count_E = sums['count_E']
  assignments = jnp.maximum(jnp.sum(count_E), 1)
  num: jax.Array | int = count_E.shape[0]
  if 'choices' in sums:
    num = sums['choices'] / jnp.maximum(sums['tokens'], 1)
  f_E = count_E * num / assignments
  p_E = sums['prob_E'] / jnp.maximum(sums['tokens'], 1)
  return f_E, p_E


@dataclasses.dataclass(frozen=True)
class ExpertLevel(scope.Scoped):
  """Expert-level balance loss over the global batch: alpha * sum_i f_i P_i.

  DeepSeekMoE (arXiv 2401.06066, section 3.3, equations 12 to 14). It is alpha
  when f_i = 1 for all i; with all load on K' experts that share the
  probability evenly it is alpha * N' / K'.

  This is the global-batch loss of Qwen (arXiv 2501.11873) too. There f is that
  of the global batch and P of a micro-batch, and the losses of micro-batches
  are averaged; here P is of the global batch as well. The sum is linear in P,
  so the two are the same number wherever micro-batches have equally many
  tokens, and here it does not depend on how the batch is cut.

  Attributes:
    alpha: the loss at perfect balance.
  """

  over: ClassVar[str] = 'batch'  # type: ignore[misc] # a field in others

  alpha: float = base.loss_weight(0.01)

  def sums(
    self, inputs: contract.RouterInput, routing: contract.Routing
  ) -> dict[str, jax.Array]:
    return counts.by_sequence(inputs, routing)

  def value(self, sums: dict[str, jax.Array]) -> jax.Array:
    f_E, p_E = f_and_p(sums)
    return self.alpha * jnp.sum(f_E * p_E)


# (inputs, routing) -> the probabilities s whose mean is P_i, [T, E].
PROBABILITIES = {
  'router': lambda _, routing: routing.prob_TE,
  'sigmoid': lambda inputs, _: jax.nn.sigmoid(inputs.logits_TE),
}


@dataclasses.dataclass(frozen=True)
class SequenceLevel(scope.Scoped):
  """Sequence-wise balance loss: mean over sequences of alpha * sum_i f_i P_i.

  DeepSeek-V3 (arXiv 2412.19437, section 2.1.2, equations 17 to 20) and the
  released DeepSeekMoE 16B (`seq_aux`); also the expert-level loss of
  DeepSeek-V2, whose T is a sequence (with alpha 0.003). f and P are those of
  `expert_level`, within one sequence. Balanced it is alpha.

  In V3 f counts the top K of the scores without the selection bias, which are
  not the experts that are used: taken from `unbiased_TK` where the router
  reports it.

  Attributes:
    alpha: 1e-4 in V3, GLM-4.5 and V4; 1e-3 in DeepSeekMoE 16B.
    probability: 'router' takes s that sum to 1; 'sigmoid' the raw sigmoid of
      the logits, as LibMoE's "V3" does.
  """

  over: ClassVar[str] = 'sequence'  # type: ignore[misc] # a field in others

  alpha: float = base.loss_weight(1e-4)
  probability: str = fields.named(PROBABILITIES, 'router')

  def sums(
    self, inputs: contract.RouterInput, routing: contract.Routing
  ) -> dict[str, jax.Array]:
    sums = counts.by_sequence(inputs, routing)
    prob_TE = PROBABILITIES[self.probability](inputs, routing)
    sums['prob_E'] = counts.sum_by_sequence(inputs, prob_TE)
    if 'unbiased_TK' in routing.extra:
      expert_TK1 = routing.extra['unbiased_TK'][..., None]
      hit_TKE = expert_TK1 == jnp.arange(routing.prob_TE.shape[1])
      hit_TE = jnp.sum(hit_TKE, axis=1, dtype=jnp.float32)
      sums['count_E'] = counts.sum_by_sequence(inputs, hit_TE)
    return sums

  def value(self, sums: dict[str, jax.Array]) -> jax.Array:
    f_E, p_E = f_and_p(sums)
    return self.alpha * jnp.sum(f_E * p_E)


def check_groups(num_groups: int, num_experts: int) -> None:
  """Raises InputError unless the groups divide the experts."""
  if num_groups < 1 or num_experts % num_groups:
    raise errors.InputError(
      f'num_groups={num_groups} does not divide the {num_experts} routed '
      'experts evenly'
    )


@dataclasses.dataclass(frozen=True)
class DeviceLevel(scope.Scoped):
  """Device-level balance loss: alpha * sum_i f'_i P'_i over D groups.

  DeepSeekMoE (arXiv 2401.06066, section 3.3, equations 15 to 17):
  f'_i is the mean of f_j, P'_i the sum of P_j, over the experts j of group i.
  Groups are runs of E / D consecutive experts. It is alpha when balanced.

  Attributes:
    alpha: 0.05 in DeepSeekMoE 145B and in V2.
    num_groups: D.
    over: 'sequence' is V2's (arXiv 2405.04434, section 2.2.3), whose T is the
      number of tokens of a sequence.
  """

  alpha: float = base.loss_weight(0.05)
  num_groups: int = fields.number(1, at_least=1)
  over: str = fields.named(scope.SCOPES, 'batch')

  def check(self, num_experts: int) -> None:
    check_groups(self.num_groups, num_experts)

  def shrunk(self, num_experts: int) -> 'DeviceLevel':
    groups = math.gcd(self.num_groups, num_experts)
    return dataclasses.replace(self, num_groups=groups)

  def sums(
    self, inputs: contract.RouterInput, routing: contract.Routing
  ) -> dict[str, jax.Array]:
    sums = counts.by_sequence(inputs, routing)
    # Means over the groups of all places do not depend on the choices in use.
    sums.pop('choices', None)
    return sums

  def value(self, sums: dict[str, jax.Array]) -> jax.Array:
    f_E, p_E = f_and_p(sums)
    f_G = f_E.reshape(self.num_groups, -1).mean(axis=1)
    p_G = p_E.reshape(self.num_groups, -1).sum(axis=1)
    return self.alpha * jnp.sum(f_G * p_G)


@dataclasses.dataclass(frozen=True)
class Communication(scope.Scoped):
  """Communication balance loss: alpha * sum_i f''_i P''_i over D devices.

  DeepSeek-V2 (arXiv 2405.04434, section 2.2.3): f''_i = D / (M T) * (tokens
  that are sent to device i), however many of its experts they use there;
  P''_i = sum of P_j over its experts. Devices are runs of E / D consecutive
  experts. It is alpha when each device is sent M T / D tokens, as under a
  router that limits a token to M devices.

  Attributes:
    alpha: 0.02 in the paper.
    num_groups: D, the number of devices.
    groups_per_token: M.
    over: 'sequence' is the paper's, whose T is the number of tokens of a
      sequence.
  """

  alpha: float = base.loss_weight(0.02)
  num_groups: int = fields.number(1, at_least=1)
  groups_per_token: int = fields.number(1, at_least=1)
  over: str = fields.named(scope.SCOPES, 'sequence')

  def check(self, num_experts: int) -> None:
    check_groups(self.num_groups, num_experts)
    if not 1 <= self.groups_per_token <= self.num_groups:
      raise errors.InputError(
        f'groups_per_token={self.groups_per_token} must be 1 to '
        f'num_groups={self.num_groups}'
      )

  def shrunk(self, num_experts: int) -> 'Communication':
    groups = math.gcd(self.num_groups, num_experts)
    return dataclasses.replace(
      self,
      num_groups=groups,
      groups_per_token=min(self.groups_per_token, groups),
    )

  def sums(
    self, inputs: contract.RouterInput, routing: contract.Routing
  ) -> dict[str, jax.Array]:
    sums = counts.by_sequence(inputs, routing)
    del sums['count_E']
    chosen_TE = stats.chosen(routing)
    sent_TDE = chosen_TE.reshape(len(chosen_TE), self.num_groups, -1)
    sent_TD = jnp.any(sent_TDE, axis=-1).astype(jnp.float32)
    return sums | {'sent_D': counts.sum_by_sequence(inputs, sent_TD)}

  def value(self, sums: dict[str, jax.Array]) -> jax.Array:
    num_tokens = jnp.maximum(sums['tokens'], 1)
    scale = self.num_groups / self.groups_per_token
    f_D = scale * sums['sent_D'] / num_tokens
    p_D = sums['prob_E'].reshape(self.num_groups, -1).sum(axis=1) / num_tokens
    return self.alpha * jnp.sum(f_D * p_D)
