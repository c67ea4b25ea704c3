"""What a balance part promises: sums over tokens, a loss, an update."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from moejax.core import fields
from moejax.moe import contract


def loss_weight(default: float) -> Any:
  """A config field that holds what a balance loss is multiplied by.

  A negative one would ask for imbalance, and one above 100 leaves nothing of
  the language model's loss; both are refused.
  """
  return fields.number(default, at_least=0, at_most=100)


@dataclasses.dataclass(frozen=True)
class Balance(fields.Checked):
  """Keeps experts in balance, by a loss or by a memory: the base of all parts.

  A loss has two halves. `observe` runs inside the layer and returns sums over
  tokens (or over groups of them); sums of shards and of micro-batches add up to
  the sums of the global batch. `loss` turns those into a number. So the loss is
  that of the global batch whatever the mesh, and gradient accumulation applies
  its gradient exactly: a loss is differentiated at the global sums, and each
  micro-batch contributes its own sums times that derivative.

  A memory is a dictionary of float32 arrays that each layer keeps beside its
  weights and that `update` replaces after every optimiser step, from the same
  global sums. Routers and `observe` see it as `given.memory[name]`; what is
  called `bias_E` in it is added to the scores for choosing.

  A part is a frozen dataclass whose fields, its coefficient among them, are its
  config keys.
  """

  def check(self, num_experts: int) -> None:
    """Raises InputError if it does not fit so many choices."""

  def shrunk(self, num_experts: int) -> 'Balance':
    """The same part for a laptop's few experts."""
    del num_experts
    return self

  @property
  def reads_responses(self) -> bool:
    """Whether it looks at the answers of experts to the router's rows."""
    return False

  def observe(
    self, given: contract.RouterInput, routing: contract.Routing
  ) -> Any:
    """Sums over the tokens of this shard, a tree of float32 arrays."""
    raise NotImplementedError

  @property
  def joins_layers(self) -> bool:
    """Whether there is one loss, of the sums of all layers added up.

    Else each layer has its own loss, and the losses add up.
    """
    return False

  def loss(self, sums: Any) -> jax.Array:
    """The loss of one layer, its coefficient included, from global sums."""
    del sums
    return jnp.zeros((), jnp.float32)

  def memory(self, num_experts: int) -> dict[str, jax.Array]:
    """What one layer remembers at the start, by name."""
    del num_experts
    return {}

  def update(
    self, memory: dict[str, jax.Array], sums: Any
  ) -> dict[str, jax.Array]:
    """The memory after a step. All arrays have the layers in front."""
    del sums
    return memory
