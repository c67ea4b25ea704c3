"""Every assignment gets a row: no token is dropped."""

import dataclasses

import jax

from moejax.moe import contract
from moejax.moe.compute import permute


@dataclasses.dataclass(frozen=True)
class Dropless:
  """Gives every expert exactly as many rows as it has assignments.

  DeepSeekMoE is trained without dropping tokens (arXiv 2401.06066, section
  4.1.2).
  """

  @property
  def equal_groups(self) -> bool:
    return False

  def check(self, num_experts: int, num_choices: int) -> None:
    pass

  def shrunk(self, num_experts: int) -> 'Dropless':
    del num_experts
    return self

  def limit(
    self, routing: contract.Routing, num_experts: int, training: bool
  ) -> contract.Routing:
    del num_experts, training
    return routing

  def dispatch(
    self,
    x_TD: jax.Array,
    routing: contract.Routing,
    num_experts: int,
    row_multiple: int = 1,
  ) -> tuple[jax.Array, jax.Array, permute.Grouping]:
    grouping = permute.group(routing.expert_A, num_experts, row_multiple)
    x_RD = permute.gather(x_TD, routing.token_A, grouping, routing.per_token)
    return x_RD, grouping.size_E, grouping

  def combine(
    self,
    y_RD: jax.Array,
    routing: contract.Routing,
    note: permute.Grouping,
    num_tokens: int,
  ) -> jax.Array:
    return permute.combine(
      y_RD,
      routing.weight_A,
      routing.token_A,
      note,
      num_tokens,
      routing.per_token,
    )
