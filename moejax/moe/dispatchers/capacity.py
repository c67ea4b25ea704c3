"""Every expert has the same number of rows; who comes too late is dropped."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from moejax.core import errors
from moejax.moe import contract, permute
from moejax.moe.dispatchers import dropless


@dataclasses.dataclass(frozen=True)
class Capacity:
  """Room for C = factor * A_g / E assignments per expert and group of tokens.

  A_g is the number of assignments of a group: K * S for token choice over S
  tokens, so that with factor 1 and K = 2 this is GShard's C = 2 S / E
  (arXiv 2006.16668, section 2.2), rounded up. Places are taken in the order of
  the list, and a place is taken even when it is beyond the capacity, as in
  GShard's Algorithm 1. A token all of whose choices are dropped gets zeros; the
  residual connection carries it.

  Attributes:
    factor: room over what a perfectly balanced router needs.
  """

  factor: float = 1.0

  def __post_init__(self):
    if self.factor <= 0:
      raise errors.InputError(
        f'dispatcher.factor={self.factor} must be positive'
      )

  @property
  def equal_groups(self) -> bool:
    return True

  def dispatch(
    self,
    x_TD: jax.Array,
    routing: contract.Routing,
    num_experts: int,
    row_multiple: int = 1,
  ) -> tuple[jax.Array, jax.Array, permute.Grouping]:
    num_tokens = x_TD.shape[0]
    size = routing.group_size or num_tokens
    groups = num_tokens // size
    if groups * size != num_tokens:
      raise ValueError(
        f'{num_tokens} tokens are no multiple of groups of {size}'
      )
    num_assignments = routing.expert_A.shape[0]
    capacity = math.ceil(self.factor * num_assignments / groups / num_experts)
    rows = -(-groups * capacity // row_multiple) * row_multiple
    place_A, group_A = _places(routing, num_experts, groups, size)
    sent_A = (routing.expert_A < num_experts) & (place_A < capacity)
    row_A = routing.expert_A * rows + group_A * capacity + place_A
    total = num_experts * rows
    row_A = jnp.where(sent_A, row_A, total)
    assignment_R = (
      jnp
      .full((total,), num_assignments, jnp.int32)
      .at[row_A]
      .set(jnp.arange(num_assignments, dtype=jnp.int32), mode='drop')
    )
    size_E = jnp.full((num_experts,), rows, jnp.int32)
    note = permute.Grouping(row_A, assignment_R, size_E)
    x_RD = permute.gather(x_TD, routing.token_A, note, routing.per_token)
    return x_RD, size_E, note

  combine = dropless.Dropless.combine


def _places(
  routing: contract.Routing, num_experts: int, groups: int, size: int
) -> tuple[jax.Array, jax.Array]:
  """The place of each assignment in its expert's queue, and its group.

  Example, one group, experts [2, 0, 2, 2]: places [0, 0, 1, 2].
  """
  group_A = routing.token_A // size
  nowhere = groups * num_experts
  queue_A = jnp.where(
    routing.expert_A < num_experts,
    group_A * num_experts + routing.expert_A,
    nowhere,
  )
  order_A = jnp.argsort(queue_A, stable=True)
  length_Q = jnp.bincount(queue_A, length=nowhere + 1)
  first_Q = jnp.cumsum(length_Q) - length_Q
  place_A = jnp.arange(len(queue_A)) - first_Q[queue_A[order_A]]
  place_A = (
    jnp.zeros_like(queue_A).at[order_A].set(place_A, unique_indices=True)
  )
  return place_A, group_A
