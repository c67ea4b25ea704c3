"""The contract of balance parts: sums over tokens, a loss, a state.

A balance part is an entry of `moe.balance`: a balance loss, a rule for a
selection bias, or both.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from moejax.core import fields
from moejax.moe import contract


def loss_weight(default: float) -> Any:
  """A config field for the coefficient of a balance loss, in [0, 100].

  A negative coefficient would reward imbalance, and with one above 100 the loss
  of the language model would hardly count.
  """
  return fields.number(default, at_least=0, at_most=100)


@dataclasses.dataclass(frozen=True)
class Balance(fields.Checked):
  """Keeps experts in balance, by a loss or by a state: the base of all parts.

  A loss has two halves. `observe` runs inside the layer and returns sums over
  tokens (or over groups of them); sums of shards and of micro-batches add up to
  the sums of the global batch. `loss` turns those into a number. So the loss is
  that of the global batch whatever the mesh, and gradient accumulation applies
  its gradient exactly: a loss is differentiated at the global sums, and each
  micro-batch contributes its own sums times that derivative.

  A state is a `contract.RouterState` that each layer keeps beside its weights.
  `update` replaces it after every optimiser step, from the same global sums.
  `observe` sees the part's own state as `own_state` of the router's input;
  routers see the sum of all parts' selection biases there.

  A part is a frozen dataclass whose fields, its coefficient among them, are its
  config keys.

  Attributes:
    needs_equal_layers: whether all layers must have the same number of experts.
      If not, sums and states of a layer with fewer may be cut to its own
      experts, along the axes E that their names end with (`moe.uneven`).
    reads_rows: whether `observe` must see all tokens of a sequence. If not, it
      may see the pieces of sequences that are split over devices; their axes
      are `row_axes` of its input.
  """

  needs_equal_layers: ClassVar[bool] = False
  reads_rows: ClassVar[bool] = False

  def check(self, num_experts: int) -> None:
    """Raises InputError if a field does not fit the number of choices, E.

    The message begins with the field, such as `num_groups=3`.
    """

  def check_router(self, router: contract.Router) -> None:
    """Raises InputError if a field does not fit the router; for new runs.

    The message begins with the field.
    """

  def shrunk(self, num_experts: int) -> 'Balance':
    """The part for a model that is shrunk to `num_experts` experts."""
    del num_experts
    return self

  @property
  def reads_responses(self) -> bool:
    """Whether the part reads the responses of experts to the router's rows."""
    return False

  def observe(
    self, inputs: contract.RouterInput, routing: contract.Routing
  ) -> Any:
    """Sums over the tokens of this shard, a tree of float32 arrays.

    Raises:
      InputError: the router does not report an array that the part needs. The
        caller puts the part's name in front of the message, and ", or
        model.moe.balance.<name>=off" behind it.
    """
    raise NotImplementedError

  @property
  def joins_layers(self) -> bool:
    """Whether the model has one loss, from sums that are added over layers.

    If not, each layer has its own loss, and the losses are added.
    """
    return False

  def loss(self, sums: Any) -> jax.Array:
    """The loss of one layer, its coefficient included, from global sums."""
    del sums
    return jnp.zeros((), jnp.float32)

  def initial_state(self, num_experts: int) -> contract.RouterState | None:
    """The state of one layer before the first step; None for no state."""
    del num_experts
    return None

  def update(
    self, state: contract.RouterState, sums: Any
  ) -> contract.RouterState:
    """The state after a step.

    Args:
      state: before the step, with layers in front.
      sums: from `observe`, of the global batch, with layers in front.
    """
    del sums
    return state
