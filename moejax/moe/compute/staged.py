"""Routed experts in three stages, for every dispatcher and kind of expert."""

import dataclasses
from typing import Any

import jax

from moejax.moe import contract
from moejax.moe.compute import base
from moejax.moe.experts import Experts, Multiply


@dataclasses.dataclass(frozen=True)
class StagedCompute:
  """Dispatch, experts, combine, one after the other.

  Attributes:
    dispatcher: puts tokens into rows grouped by expert, and back.
    experts: the kind of experts.
    multiply: the grouped matmul, an entry of GROUPED_MATMULS.
  """

  dispatcher: contract.Dispatcher
  experts: Experts
  multiply: Multiply

  def __call__(
    self,
    weights: dict[str, jax.Array],
    x_TD: jax.Array,
    routing: contract.Routing,
    num_experts: int,
    grad_accumulator: Any = None,
  ) -> base.ExpertOutput:
    del grad_accumulator
    x_RD, size_E, note = self.dispatch(x_TD, routing, num_experts)
    y_RD = self.apply(weights, x_RD, size_E)
    out_TD = self.combine(y_RD, routing, note, x_TD.shape[0])
    return base.ExpertOutput(out_TD, note.row_A < x_RD.shape[0])

  @property
  def rounds_weights(self) -> bool:
    return False

  @property
  def most_picked(self) -> int:
    return 0

  @property
  def equal_stages(self) -> base.Stages | None:
    return self if self.dispatcher.equal_groups else None

  def dispatch(
    self, x_TD: jax.Array, routing: contract.Routing, num_experts: int
  ) -> tuple[jax.Array, jax.Array, Any]:
    return self.dispatcher.dispatch(
      x_TD,
      base.nowhere_beyond(routing, num_experts),
      num_experts,
      self.multiply.row_multiple,
    )

  def apply(
    self, weights: dict[str, jax.Array], x_RD: jax.Array, size_E: jax.Array
  ) -> jax.Array:
    return self.experts(weights, x_RD, size_E, self.multiply)

  def combine(
    self, y_RD: jax.Array, routing: contract.Routing, note: Any, num_tokens: int
  ) -> jax.Array:
    return self.dispatcher.combine(y_RD, routing, note, num_tokens)

  def prepare(self, weights: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return base.flatten_gate_up(weights)

  def grad_accumulator(self, weights: dict[str, jax.Array]) -> None:
    del weights
