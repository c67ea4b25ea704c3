"""Scores by how strongly the experts themselves respond to a token."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from moejax.core import errors
from moejax.moe.scorers import base, linear

WEIGHT = 'w_down_EDR'


@dataclasses.dataclass(frozen=True)
class ExpertNorm(base.Scorer):
  """logit_i = |x W_down_i|, with W_down_i expert i's own: no router weights.

  Autonomy-of-Experts (arXiv 2501.13074, section 3): each expert takes a token
  into r dimensions, and those whose result is longest go on. It needs
  experts with such a matrix (`autonomous_swiglu`) and as many scores as
  experts. The router is `top_k`: softmax over all norms. The authors' code has
  two variants, one on MegaBlocks that weighs with the kept probabilities as
  they are (`top_k`'s default), and one in plain PyTorch that divides them by
  their sum (`router.renormalise`). The latter has a balance loss, which is K
  times `expert_level`: `switch` with form=multi_hot.

  All experts' matrices are needed for all tokens, 2 T E D r operations a layer
  forward; the paper keeps the results for the chosen experts, we compute those
  again on the experts' side, which is k / E more. Experts are taken one after
  the other, and again in the backward pass, so that memory is T r instead of
  T E r.
  """

  @property
  def reads_experts(self) -> bool:
    return True

  def init(
    self, key: jax.Array, width: int, num: int, std: float
  ) -> dict[str, nnx.Param]:
    del key, width, num, std
    return {}

  def __call__(
    self, w: dict[str, jax.Array], inputs: base.ScorerInput
  ) -> jax.Array:
    del w
    if WEIGHT not in inputs.experts:
      raise errors.InputError(
        'scorer expert_norm reads the experts: use it with '
        'model.moe.experts=autonomous_swiglu'
      )

    @jax.checkpoint
    def norm(w_DR: jax.Array) -> jax.Array:
      h_TR = linear.product(inputs.x_TD, w_DR.astype(jnp.float32))
      square_T = jnp.sum(jnp.square(h_TR), axis=1)
      # The gradient of a norm at zero is taken to be zero.
      some_T = square_T > 0
      return jnp.where(some_T, jnp.sqrt(jnp.where(some_T, square_T, 1.0)), 0.0)

    return jax.lax.map(norm, inputs.experts[WEIGHT]).T
