"""GShard's auxiliary loss."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from moejax.moe import contract
from moejax.moe.balance import base, counts


@dataclasses.dataclass(frozen=True)
class GShardAux(base.Balance):
  """GShard's auxiliary loss: mean over groups of (1/E) sum_e (c_e / S) m_e.

  GShard (arXiv 2006.16668, Algorithm 1, lines 9 to 13): c_e counts the first
  choices of expert e, over capacity or not; m_e is the mean gate; S the tokens
  of a group, padding left out. The balanced value is 1 / E^2. Here the loss is
  multiplied by E^2, to be on the scale of the other losses: balanced it equals
  `coefficient` (praxis and lingvo do the same). The paper does not say which
  coefficient it used.

  A group is the tokens that share a capacity (`Routing.group_size`), or else a
  sequence. With one sequence per group this is also the balance loss of
  LibMoE's vision models.

  Attributes:
    coefficient: the loss at perfect balance.
  """

  reads_rows: ClassVar[bool] = True

  coefficient: float = base.loss_weight(0.01)

  def observe(
    self, inputs: contract.RouterInput, routing: contract.Routing
  ) -> dict[str, jax.Array]:
    num_experts = routing.prob_TE.shape[1]
    size = routing.group_size or inputs.row_length
    first_GS = counts.first(routing).reshape(-1, size)
    valid_GS = inputs.valid_T.reshape(-1, size).astype(jnp.float32)
    prob_GSE = routing.prob_TE.reshape(-1, size, num_experts)
    hit_GSE = first_GS[..., None] == jnp.arange(num_experts)
    tokens_G = jnp.maximum(valid_GS.sum(axis=1), 1)
    count_GE = jnp.sum(hit_GSE, axis=1, dtype=jnp.float32)
    mean_GE = jnp.einsum('GSE,GS->GE', prob_GSE, valid_GS) / tokens_G[:, None]
    num: jax.Array | int = num_experts
    if inputs.in_use_E is not None:
      num = jnp.sum(inputs.in_use_E)
    aux_G = jnp.sum(count_GE * mean_GE, axis=1) / tokens_G / num
    full_G = (valid_GS.sum(axis=1) > 0).astype(jnp.float32)
    return {
      'aux': jnp.sum(aux_G * num**2 * full_G),
      'groups': jnp.sum(full_G),
    }

  def loss(self, sums: dict[str, jax.Array]) -> jax.Array:
    return self.coefficient * sums['aux'] / jnp.maximum(sums['groups'], 1)
