"""The contract of computing routed experts on one device."""

import dataclasses
from typing import Any, Protocol

import flax.struct
import jax
import jax.numpy as jnp

from moejax.moe import contract
from moejax.moe.compute import permute


@flax.struct.dataclass
class ExpertOutput:
  """The output of the routed experts for the tokens of this device.

  Attributes:
    out_TD: the weighted sum of each token's experts.
    sent_A: bool, whether the assignment was computed; the others were dropped,
      or sent nowhere.
    overflow: float32, the number of this device's assignments that did not fit
      into the buffers of expert parallelism, including those that a fallback
      computed.
    grad_accumulator: that of the call, unchanged, for the next call; see
      `Compute.grad_accumulator`.
    norm_A: float32, L2 norm of the expert's output for each assignment, before
      its weight; 0 where nothing was computed. None unless it was asked for.
  """

  out_TD: jax.Array
  sent_A: jax.Array
  overflow: jax.Array | float = 0.0
  grad_accumulator: Any = None
  norm_A: jax.Array | None = None


class Stages(Protocol):
  """Dispatch, experts and combine as calls of their own.

  Where all experts have equally many rows, expert parallelism moves the rows
  between these stages.
  """

  def dispatch(
    self, x_TD: jax.Array, routing: contract.Routing, num_experts: int
  ) -> tuple[jax.Array, jax.Array, Any]:
    """x_RD grouped by expert, size_E and a note for `combine`."""
    ...

  def apply(
    self, weights: dict[str, jax.Array], x_RD: jax.Array, size_E: jax.Array
  ) -> jax.Array:
    """y_RD: the rows of each group through its expert."""
    ...

  def combine(
    self, y_RD: jax.Array, routing: contract.Routing, note: Any, num_tokens: int
  ) -> jax.Array:
    """out_TD: for each token the weighted sum of its rows."""
    ...


class Compute(Protocol):
  """Computes routed experts for the tokens of one device."""

  def __call__(
    self,
    weights: dict[str, jax.Array],
    x_TD: jax.Array,
    routing: contract.Routing,
    num_experts: int,
    grad_accumulator: Any = None,
  ) -> ExpertOutput:
    """The output of `num_experts` experts for these tokens.

    Args:
      weights: of these experts.
      x_TD: token vectors.
      routing: their assignments; expert ids from `num_experts` on are sent
        nowhere.
      num_experts: number of experts.
      grad_accumulator: None, or the result of the method `grad_accumulator`, as
        the previous call returned it. With it the gradient of the weights is
        the gradient of the accumulator, and `weights` have none.
    """
    ...

  @property
  def rounds_weights(self) -> bool:
    """Whether it rounds weights to the type of the tokens itself.

    Then it takes the stored weights, and their gradient is not rounded.
    """
    ...

  @property
  def most_picked(self) -> int:
    """The most assignments per expert with which weights are picked; or 0.

    A call with so few reads the weights of those experts alone that have rows.
    It may be given many more experts than a layer has, such as those of all
    layers: they cost nothing.
    """
    ...

  @property
  def equal_stages(self) -> Stages | None:
    """The stages, if every expert has equally many rows; else None."""
    ...

  def prepare(self, weights: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """The weights in the layout that a call computes with.

    A caller of many calls prepares the weights once. A call also takes weights
    that were not prepared, and this method takes prepared ones.
    """
    ...

  def grad_accumulator(self, weights: dict[str, jax.Array]) -> Any:
    """Arrays through which calls add up the weights' gradient; or None.

    The arrays are the prepared weights. Each call returns them unchanged for
    the next call. In the backward pass, which visits the calls in reverse, each
    call adds its gradient to the sum of the later calls, in the same array.
    """
    ...


def nowhere_beyond(
  routing: contract.Routing, num_experts: int
) -> contract.Routing:
  """The routing with every expert id from `num_experts` on sent nowhere."""
  expert_A = jnp.minimum(routing.expert_A, num_experts)
  return dataclasses.replace(routing, expert_A=expert_A)


def is_picked(
  compute: Compute, routing: contract.Routing, num_experts: int
) -> bool:
  """Whether a call reads the weights of experts with rows alone.

  Args:
    compute: has a limit, see `Compute.most_picked`.
    routing: the assignments.
    num_experts: number of experts.
  """
  return len(routing.expert_A) <= compute.most_picked * num_experts


def in_layer(
  compute: Compute,
  experts: dict[str, jax.Array],
  routing: contract.Routing,
  num_experts: int,
  layer: jax.Array | int,
) -> tuple[dict[str, jax.Array], contract.Routing, int]:
  """Weights, assignments and number of experts of one layer out of all.

  If `compute` picks weights, the layers become one of N E experts, and the
  assignments are to those of this layer. Else its weights are sliced, which
  copies them.

  Args:
    compute: computes them.
    experts: weights [N, E, ...].
    routing: assignments to the E experts of the layer.
    num_experts: E.
    layer: its number.
  """
  if not is_picked(compute, routing, num_experts):
    at = lambda w: jax.lax.dynamic_index_in_dim(w, layer, keepdims=False)
    return {n: at(w) for n, w in experts.items()}, routing, num_experts
  experts = {n: w.reshape(-1, *w.shape[2:]) for n, w in experts.items()}
  num_all = len(next(iter(experts.values())))
  expert_A = routing.expert_A + layer * num_experts
  expert_A = jnp.where(routing.expert_A < num_experts, expert_A, num_all)
  return experts, dataclasses.replace(routing, expert_A=expert_A), num_all


def group(
  routing: contract.Routing, num_experts: int, multiple: int
) -> permute.Grouping:
  """`permute.group` of a routing; ids from `num_experts` on go nowhere."""
  expert_A = nowhere_beyond(routing, num_experts).expert_A
  return permute.group(expert_A, num_experts, multiple)


def flatten_gate_up(weights: dict[str, jax.Array]) -> dict[str, jax.Array]:
  """The weights with gate and up in one dimension of 2 F.

  On TPU an array with a dimension of 2 is slow to read.
  """
  if 'w_in_ED2F' not in weights:
    return weights
  w_in = weights['w_in_ED2F']
  return {**weights, 'w_in_ED2F': w_in.reshape(*w_in.shape[:2], -1)}
