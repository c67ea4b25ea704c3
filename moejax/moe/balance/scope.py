"""A loss of the whole batch, or the mean of the losses of its sequences."""

from typing import Any

import jax
import jax.numpy as jnp

from moejax.core import varying
from moejax.moe import contract
from moejax.moe.balance import base


def _batch_sums(
  value: Any, sums_S: dict[str, jax.Array], row_axes: tuple[str, ...]
) -> Any:
  del value, row_axes
  return jax.tree.map(lambda x: jnp.sum(x, axis=0), sums_S)


def _batch_loss(value: Any, sums: Any) -> jax.Array:
  return value(sums)


def _sequence_sums(
  value: Any, sums_S: dict[str, jax.Array], row_axes: tuple[str, ...]
) -> Any:
  here_S, devices = sums_S['tokens'], 1
  if row_axes:
    # All devices of a sequence have its sums, and each a share of its value.
    sums_S = jax.lax.psum(sums_S, row_axes)
    devices = jax.lax.psum(1, row_axes)
  full_S = sums_S['tokens'] > 0
  value_S = jnp.where(full_S, jax.vmap(value)(sums_S), 0.0)
  sums = {
    'value': jnp.sum(value_S) / devices,
    'sequences': jnp.sum(full_S, dtype=jnp.float32) / devices,
  }
  # Equal on the devices of a sequence, but summed over them by the caller.
  return jax.tree.map(lambda x: varying.like(x, here_S), sums)


def _sequence_loss(value: Any, sums: Any) -> jax.Array:
  del value
  return sums['value'] / jnp.maximum(sums['sequences'], 1)


# For each scope two functions. The first makes the part's sums from the sums of
# single sequences, or of their pieces on this device and the mesh axes that
# split them; the second makes the loss from the part's sums.
SCOPES = {
  'batch': (_batch_sums, _batch_loss),
  'sequence': (_sequence_sums, _sequence_loss),
}


class Scoped(base.Balance):
  """A loss that is a function, `value`, of sums over tokens.

  The field `over` of a subclass names the scope. 'batch': the loss is the value
  of the sums over the global batch. 'sequence': the loss is the mean over
  sequences of the value of each sequence's sums, which demands balance in every
  sequence. Sequences of padding alone are left out.
  """

  over: str

  def sums(
    self, inputs: contract.RouterInput, routing: contract.Routing
  ) -> dict[str, jax.Array]:
    """Sums of each sequence [S, ...], 'tokens' among them."""
    raise NotImplementedError

  def value(self, sums: dict[str, jax.Array]) -> jax.Array:
    """The loss from sums, its coefficient included."""
    raise NotImplementedError

  def observe(
    self, inputs: contract.RouterInput, routing: contract.Routing
  ) -> Any:
    sums_S = self.sums(inputs, routing)
    return SCOPES[self.over][0](self.value, sums_S, inputs.row_axes)

  def loss(self, sums: Any) -> jax.Array:
    return SCOPES[self.over][1](self.value, sums)
