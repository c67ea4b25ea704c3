"""Equally many rows for every expert; assignments over capacity are dropped."""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp

from moejax.core import errors, fields
from moejax.moe import contract
from moejax.moe.compute import permute
from moejax.moe.dispatchers import dropless


def _by_weight(routing: contract.Routing) -> tuple[jax.Array, ...]:
  return (-jax.lax.stop_gradient(routing.weight_A),)


def _by_token(routing: contract.Routing) -> tuple[jax.Array, ...]:
  weight_A = jax.lax.stop_gradient(routing.weight_A)
  num_tokens = routing.prob_TE.shape[0]
  largest_T = jax.ops.segment_max(weight_A, routing.token_A, num_tokens)
  # In a list that is not token choice, every assignment is a first choice.
  place_A = jnp.arange(len(weight_A)) if routing.per_token else 0 * weight_A
  return -largest_T[routing.token_A], place_A // num_tokens


# The order in which the assignments of a group take an expert's places, as keys
# for lexsort, of which the last is the primary one. Ties go to the assignment
# that is earlier in the list.
PRIORITIES = {
  'batch_prioritised': _by_token,
  'position': lambda _: (),
  'probability': _by_weight,
}


@dataclasses.dataclass(frozen=True)
class Capacity(fields.Checked):
  """Room for C = factor * A_g / E assignments per expert and group of tokens.

  A_g is the number of assignments of a group: K * S for token choice over S
  tokens, so that with factor 1 and K = 2 this is GShard's C = 2 S / E
  (arXiv 2006.16668, section 2.2), rounded up. Assignments take an expert's
  places in order of `priority`; an assignment takes a place even when the place
  is beyond the capacity, as in GShard's Algorithm 1. A token whose choices are
  all dropped gets zeros; the residual connection carries it.

  Where some choices are without computation (`zero_computation`), of N_F
  experts and N_Z others an expert has C = factor * tau * A_g / (tau N_F + N_Z)
  places and another choice 1 / tau times as many (MoE++, arXiv 2410.07348,
  equation 8, with assignments in place of its T tokens). tau = 1 gives all
  choices the same room.

  Attributes:
    factor: places of an expert, over those that a perfectly balanced router
      needs.
    eval_factor: the factor in evaluation; 0 means `factor`. ST-MoE trains with
      1.25 and evaluates with 2 (arXiv 2202.08906), as Mesh TensorFlow's
      and Flaxformer's Switch do; those factors multiply tokens over experts, so
      they are K times the ones here.
    priority: which assignments take places first. `position` is the order of
      the list: all first choices by position, then all second choices.
      `probability` is the assignment's weight, the largest first, first and
      second choices alike: Megatron-LM's drop policy `probs`.
      `batch_prioritised` is V-MoE's batch-prioritised routing (arXiv
      2106.05974, section 4.1, algorithm 2): all first choices before all second
      ones, and among each the tokens by their largest weight. With the last two
      a later token may take an earlier one's place; and with `position` a later
      token's first choice goes before an earlier one's second, as in GShard.
    not_causal: a causal language model refuses any priority but `position`
      unless this says that it is meant.
    tau: places of an expert, over those of a choice without computation.
  """

  # A capacity is that of the tokens of one sequence.
  reads_rows: ClassVar[bool] = True

  factor: float = fields.number(1.0, above=0, at_most=1000)
  eval_factor: float = fields.number(
    0.0, at_least=0, at_most=1000, note='0: as in training'
  )
  priority: str = fields.named(PRIORITIES, 'position')
  not_causal: bool = False
  tau: float = fields.number(1.0, above=0, at_most=1000)

  @property
  def causal(self) -> bool:
    """Whether places are taken in the order of the list."""
    return self.priority == 'position'

  @property
  def equal_groups(self) -> bool:
    return True

  def check(self, num_experts: int, num_choices: int) -> None:
    # With this factor all assignments of a group fit into one expert.
    most = num_experts + (num_choices - num_experts) / self.tau
    for key in ('factor', 'eval_factor'):
      if getattr(self, key) > most:
        raise errors.InputError(
          f'dispatcher.{key}={getattr(self, key)} is room for more '
          f'than all assignments in each of {num_experts} experts; use '
          f'{most:g} or less'
        )

  def shrunk(self, num_experts: int) -> 'Capacity':
    return dataclasses.replace(
      self,
      factor=min(self.factor, num_experts),
      eval_factor=min(self.eval_factor, num_experts),
    )

  def limit(
    self, routing: contract.Routing, num_experts: int, training: bool
  ) -> contract.Routing:
    if not training and self.eval_factor:
      at_eval = dataclasses.replace(self, factor=self.eval_factor)
      return at_eval.limit(routing, num_experts, training=True)
    choices = routing.prob_TE.shape[1]
    num_tokens = routing.prob_TE.shape[0]
    place_A, _ = self._places(routing, choices, num_tokens)
    room = self._room(routing, num_experts)
    room_E = jnp.array(
      [room] * num_experts
      + [self._room(routing, num_experts, 1 / self.tau)]
      * (choices - num_experts)
      + [0]
    )
    has_A = place_A < room_E[routing.expert_A]
    return dataclasses.replace(
      routing, expert_A=jnp.where(has_A, routing.expert_A, choices), room=room
    )

  def dispatch(
    self,
    x_TD: jax.Array,
    routing: contract.Routing,
    num_experts: int,
    row_multiple: int = 1,
  ) -> tuple[jax.Array, jax.Array, permute.Grouping]:
    groups = _groups(routing, x_TD.shape[0])
    capacity = routing.room or self._room(routing, num_experts)
    rows = -(-groups * capacity // row_multiple) * row_multiple
    place_A, group_A = self._places(routing, num_experts, x_TD.shape[0])
    sent_A = (routing.expert_A < num_experts) & (place_A < capacity)
    row_A = routing.expert_A * rows + group_A * capacity + place_A
    total = num_experts * rows
    row_A = jnp.where(sent_A, row_A, total)
    num_assignments = routing.expert_A.shape[0]
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

  def _room(self, routing, num_experts: int, times: float = 1.0) -> int:
    """Places of one expert in a group, multiplied by `times`."""
    num_tokens, choices = routing.prob_TE.shape
    others = choices - num_experts
    share = self.tau / (self.tau * num_experts + others)
    per_group = routing.expert_A.shape[0] / _groups(routing, num_tokens)
    # Rounded first: 1.1 * 100 / 10 is not 11 in floating point.
    return math.ceil(round(self.factor * share * per_group * times, 6))

  def _places(
    self, routing: contract.Routing, num_experts: int, num_tokens: int
  ) -> tuple[jax.Array, jax.Array]:
    """The place of each assignment in its expert's queue, and its group.

    Example, one group of three tokens with two choices each, experts
    [2, 2, 0, 0, 0, 2] with weights [.5, .6, .9, .4, .3, .1]:

      position           [0, 1, 0, 1, 2, 2]
      probability        [1, 0, 0, 1, 2, 2]
      batch_prioritised  [1, 0, 0, 2, 1, 2]   token 1 has .6, token 0 only .5
    """
    groups = _groups(routing, num_tokens)
    group_A = routing.token_A // (num_tokens // groups)
    nowhere = groups * num_experts
    queue_A = jnp.where(
      routing.expert_A < num_experts,
      group_A * num_experts + routing.expert_A,
      nowhere,
    )
    order_A = jnp.lexsort((*PRIORITIES[self.priority](routing), queue_A))
    length_Q = jnp.bincount(queue_A, length=nowhere + 1)
    first_Q = jnp.cumsum(length_Q) - length_Q
    place_A = jnp.arange(len(queue_A)) - first_Q[queue_A[order_A]]
    place_A = (
      jnp.zeros_like(queue_A).at[order_A].set(place_A, unique_indices=True)
    )
    return place_A, group_A

  combine = dropless.Dropless.combine


def _groups(routing: contract.Routing, num_tokens: int) -> int:
  """Number of groups of tokens; each group has a capacity of its own."""
  size = routing.group_size or num_tokens
  if num_tokens % size:
    raise ValueError(f'{num_tokens} tokens are no multiple of groups of {size}')
  return num_tokens // size
