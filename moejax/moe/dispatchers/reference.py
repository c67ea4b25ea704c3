"""The dispatcher that the others are compared with: slow and simple."""

import dataclasses

import jax
import jax.numpy as jnp

from moejax.moe import contract
from moejax.moe.compute import permute


@dataclasses.dataclass(frozen=True)
class Reference:
  """Gives each assignment the row behind the earlier ones of its expert.

  It drops no assignment. It scatters where the other dispatchers gather, so its
  gradients are those that JAX derives.
  """

  @property
  def equal_groups(self) -> bool:
    return False

  def check(self, num_experts: int, num_choices: int) -> None:
    pass

  def shrunk(self, num_experts: int) -> 'Reference':
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
    (num_assignments,) = routing.expert_A.shape
    num_rows = permute.num_rows(num_assignments, num_experts, row_multiple)
    hit_AE = routing.expert_A[:, None] == jnp.arange(num_experts)
    count_E = jnp.sum(hit_AE, axis=0)
    size_E = -(-count_E // row_multiple) * row_multiple
    start_E = jnp.cumsum(size_E) - size_E
    before_AE = jnp.cumsum(hit_AE, axis=0) - hit_AE
    row_A = jnp.sum((start_E + before_AE) * hit_AE, axis=1)
    row_A = jnp.where(routing.expert_A < num_experts, row_A, num_rows)
    zeros_RD = jnp.zeros((num_rows, x_TD.shape[1]), x_TD.dtype)
    x_RD = zeros_RD.at[row_A].set(x_TD[routing.token_A], mode='drop')
    assignment_R = jnp.full((num_rows,), num_assignments)
    assignment_R = assignment_R.at[row_A].set(
      jnp.arange(num_assignments), mode='drop'
    )
    note = permute.Grouping(row_A, assignment_R, size_E)
    return x_RD, size_E, note

  def combine(
    self,
    y_RD: jax.Array,
    routing: contract.Routing,
    note: permute.Grouping,
    num_tokens: int,
  ) -> jax.Array:
    sent_A1 = (note.row_A < y_RD.shape[0])[:, None]
    y_AD = jnp.where(sent_A1, y_RD.at[note.row_A].get(mode='clip'), 0)
    y_AD = y_AD.astype(jnp.float32) * routing.weight_A[:, None]
    out_TD = jnp.zeros((num_tokens, y_RD.shape[1]), jnp.float32)
    return out_TD.at[routing.token_A].add(y_AD).astype(y_RD.dtype)
