"""Losses that keep experts in balance, as functions of sums over the batch.

A balance loss has two halves. `observe` runs inside the layer and returns sums
over tokens (or over groups of them); sums of shards and of micro-batches add up
to the sums of the global batch. `loss` turns those sums into a number. So the
loss is that of the global batch whatever the mesh, and gradient accumulation
can apply its gradient exactly: a loss is differentiated at the global sums, and
each micro-batch contributes its own sums times that derivative.

Every loss carries its coefficient as a field.
"""

import dataclasses
import math
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from moejax.core import errors, table
from moejax.moe import contract


class BalanceLoss(Protocol):
  """A balance loss; its fields are its config keys."""

  def observe(
    self, given: contract.RouterInput, routing: contract.Routing
  ) -> Any:
    """Sums over the tokens of this shard, a tree of float32 arrays."""
    ...

  def loss(self, sums: Any) -> jax.Array:
    """The loss of one layer, its coefficient included, from global sums."""
    ...

  def check(self, num_experts: int) -> None:
    """Raises InputError if it does not fit so many experts."""
    ...


def _count(routing: contract.Routing) -> jax.Array:
  """How many assignments each expert has, float32 [E]."""
  num_experts = routing.prob_TE.shape[1]
  hit_AE = routing.expert_A[:, None] == jnp.arange(num_experts)
  return jnp.sum(hit_AE, axis=0, dtype=jnp.float32)


def _load_and_probability(
  given: contract.RouterInput, routing: contract.Routing
) -> dict[str, jax.Array]:
  valid_T = given.valid_T.astype(jnp.float32)
  return {
    'count_E': jax.lax.stop_gradient(_count(routing)),
    'prob_E': jnp.einsum('TE,T->E', routing.prob_TE, valid_T),
    'tokens': jnp.sum(valid_T),
  }


def _f_and_p(sums: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
  """DeepSeekMoE's f_i and P_i (equations 13 and 14).

  f_i = N' / (K' T) * (tokens that select expert i); P_i = mean of s_i. K' T is
  the number of assignments. Both are taken over tokens that are not padding.
  """
  count_E = sums['count_E']
  assignments = jnp.maximum(jnp.sum(count_E), 1)
  f_E = count_E * count_E.shape[0] / assignments
  p_E = sums['prob_E'] / jnp.maximum(sums['tokens'], 1)
  return f_E, p_E


@dataclasses.dataclass(frozen=True)
class ExpertLevel:
  """Expert-level balance loss: alpha * sum_i f_i P_i.

  DeepSeekMoE (arXiv 2401.06066, section 3.3, equations 12 to 14). It is alpha
  when f_i = 1 for all i; with all load on K' experts that share the
  probability evenly it is alpha * N' / K'.
  """

  alpha: float = 0.01

  def check(self, num_experts: int) -> None:
    del num_experts

  def observe(
    self, given: contract.RouterInput, routing: contract.Routing
  ) -> dict[str, jax.Array]:
    return _load_and_probability(given, routing)

  def loss(self, sums: dict[str, jax.Array]) -> jax.Array:
    f_E, p_E = _f_and_p(sums)
    return self.alpha * jnp.sum(f_E * p_E)


@dataclasses.dataclass(frozen=True)
class DeviceLevel:
  """Device-level balance loss: alpha * sum_i f'_i P'_i over D groups.

  DeepSeekMoE (arXiv 2401.06066, section 3.3, equations 15 to 17):
  f'_i is the mean of f_j, P'_i the sum of P_j, over the experts j of group i.
  Groups are runs of E / D consecutive experts. It is alpha when balanced.
  """

  alpha: float = 0.05
  num_groups: int = 1

  def check(self, num_experts: int) -> None:
    if self.num_groups < 1 or num_experts % self.num_groups:
      raise errors.InputError(
        f'balance.device_level.num_groups={self.num_groups} does not divide '
        f'the {num_experts} routed experts evenly'
      )

  def shrunk(self, num_experts: int) -> 'DeviceLevel':
    groups = math.gcd(self.num_groups, num_experts)
    return dataclasses.replace(self, num_groups=groups)

  def observe(
    self, given: contract.RouterInput, routing: contract.Routing
  ) -> dict[str, jax.Array]:
    return _load_and_probability(given, routing)

  def loss(self, sums: dict[str, jax.Array]) -> jax.Array:
    f_E, p_E = _f_and_p(sums)
    f_G = f_E.reshape(self.num_groups, -1).mean(axis=1)
    p_G = p_E.reshape(self.num_groups, -1).sum(axis=1)
    return self.alpha * jnp.sum(f_G * p_G)


@dataclasses.dataclass(frozen=True)
class GShardAux:
  """GShard's auxiliary loss: mean over groups of (1/E) sum_e (c_e / S) m_e.

  GShard (arXiv 2006.16668, Algorithm 1, lines 9 to 13): c_e counts the first
  choices of expert e, over capacity or not; m_e is the mean gate; S the tokens
  of a group, padding left out. Balanced it is 1 / E^2, so the coefficient is
  multiplied by E^2 here to be on the scale of the others: balanced it equals
  `coefficient`. The paper does not say which coefficient it used.
  """

  coefficient: float = 0.01

  def check(self, num_experts: int) -> None:
    del num_experts

  def observe(
    self, given: contract.RouterInput, routing: contract.Routing
  ) -> dict[str, jax.Array]:
    num_tokens, num_experts = routing.prob_TE.shape
    if routing.per_token is None:
      raise errors.InputError(
        'the gshard_aux balance loss counts first choices: it needs a token '
        'choice router'
      )
    size = routing.group_size or num_tokens
    first_GS = routing.expert_A[:num_tokens].reshape(-1, size)
    valid_GS = given.valid_T.reshape(-1, size).astype(jnp.float32)
    prob_GSE = routing.prob_TE.reshape(-1, size, num_experts)
    hit_GSE = first_GS[..., None] == jnp.arange(num_experts)
    tokens_G = jnp.maximum(valid_GS.sum(axis=1), 1)
    count_GE = jnp.sum(hit_GSE, axis=1, dtype=jnp.float32)
    mean_GE = jnp.einsum('GSE,GS->GE', prob_GSE, valid_GS) / tokens_G[:, None]
    aux_G = jnp.sum(count_GE * mean_GE, axis=1) / tokens_G / num_experts
    full_G = (valid_GS.sum(axis=1) > 0).astype(jnp.float32)
    return {
      'aux': jnp.sum(aux_G * num_experts**2 * full_G),
      'groups': jnp.sum(full_G),
    }

  def loss(self, sums: dict[str, jax.Array]) -> jax.Array:
    return self.coefficient * sums['aux'] / jnp.maximum(sums['groups'], 1)


BALANCE = {
  'device_level': DeviceLevel,
  'expert_level': ExpertLevel,
  'gshard_aux': GShardAux,
}


def total(
  losses: tuple[BalanceLoss, ...], sums: dict[str, Any]
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """All balance losses of a model, summed over its MoE layers.

  Args:
    losses: the configured losses.
    sums: by name of the loss, its global sums with layers in front.

  Returns:
    The total, and the mean over layers of each loss by name.

  Raises:
    KeyError: a configured loss has no sums: a layer did not report it.
  """
  loss = jnp.zeros((), jnp.float32)
  values = {}
  for part in losses:
    name = table.name_of(BALANCE, part)
    if name not in sums:
      raise KeyError(f'no layer reported balance loss {name!r}')
    loss_N = jax.vmap(part.loss)(sums[name])
    loss = loss + jnp.sum(loss_N)
    values[name] = jnp.mean(loss_N)
  return loss, values


def observe(
  losses: tuple[BalanceLoss, ...],
  given: contract.RouterInput,
  routing: contract.Routing,
) -> dict[str, Any]:
  """The sums of each loss by its name, over the tokens of this shard."""
  return {
    table.name_of(BALANCE, part): part.observe(given, routing)
    for part in losses
  }
