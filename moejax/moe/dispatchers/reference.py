"""The slow, obvious dispatcher that the others are compared with."""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp

from moejax.moe import contract


@flax.struct.dataclass
class _Note:
  order_A: jax.Array
  row_A: jax.Array


@dataclasses.dataclass(frozen=True)
class Reference:
  """Sorts the assignments by expert, and adds the results token by token.

  Drops nothing. Scatters where the others gather, so its gradients come from
  JAX alone.
  """

  @property
  def equal_groups(self) -> bool:
    return False

  def dispatch(
    self,
    x_TD: jax.Array,
    routing: contract.Routing,
    num_experts: int,
    row_multiple: int = 1,
  ) -> tuple[jax.Array, jax.Array, _Note]:
    if row_multiple != 1:
      raise ValueError('the reference dispatcher knows no row_multiple')
    order_A = jnp.argsort(routing.expert_A, stable=True)
    size_E = jnp.sum(
      routing.expert_A[:, None] == jnp.arange(num_experts), axis=0
    ).astype(jnp.int32)
    sent_A = routing.expert_A < num_experts
    row_A = jnp.where(sent_A, jnp.argsort(order_A), order_A.shape[0])
    x_RD = x_TD[routing.token_A[order_A]] * sent_A[order_A, None]
    return x_RD, size_E, _Note(order_A, row_A)

  def combine(
    self,
    y_RD: jax.Array,
    routing: contract.Routing,
    note: _Note,
    num_tokens: int,
  ) -> jax.Array:
    order_A = note.order_A
    weight_A = jnp.where(note.row_A < y_RD.shape[0], routing.weight_A, 0)[
      order_A
    ]
    out_TD = jnp.zeros((num_tokens, y_RD.shape[1]), jnp.float32)
    rows_RD = y_RD.astype(jnp.float32) * weight_A[:, None]
    return out_TD.at[routing.token_A[order_A]].add(rows_RD).astype(y_RD.dtype)
