"""A network as scorer, whose input is averaged over layers: ZAYA1's router."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from moejax.core import fields, special
from moejax.moe.scorers import base, linear

EPS = 1e-5


@dataclasses.dataclass(frozen=True)
class Mlp(base.Scorer):
  """logits = W_3 gelu(W_2 gelu(W_1 norm(r) + b_1) + b_2): ZAYA1's router.

  ZAYA1 (arXiv 2511.17127; the equations are in 2605.05365, section II) has a
  network of three layers in few dimensions R in place of a linear router. Its
  input is averaged over depth (exponential depth averaging), with g learned:

    r = W_down x + b_down + g * (r of the same token in the layer before)

  The norm is RMSNorm with a learned scale, gelu the exact one. As in the
  released model g is a number for each of the R dimensions and starts at 1; the
  first layer has no layer before it, so its g has no effect.

  Attributes:
    width: R; 256 in the published models.
    depth_average: whether r of the layer before is added.
  """

  width: int = fields.number(256, at_least=1)
  depth_average: bool = True

  @property
  def state_width(self) -> int:
    return self.width if self.depth_average else 0

  def init(
    self, key: jax.Array, width: int, num: int, std: float
  ) -> dict[str, nnx.Param]:
    inner = self.width
    shapes = {
      'w_down_DR': (width, inner),
      'w_one_RR': (inner, inner),
      'w_two_RR': (inner, inner),
      'w_out_RE': (inner, num),
    }
    keys = jax.random.split(key, len(shapes))
    weights = {
      name: nnx.Param(
        std * jax.random.normal(one, shape, jnp.float32),
        axes=linear.AXES,
        decays=True,
      )
      for one, (name, shape) in zip(keys, shapes.items(), strict=True)
    }
    starts = {'b_down_R': 0.0, 'b_one_R': 0.0, 'b_two_R': 0.0}
    starts['norm_scale_R'] = 1.0
    if self.depth_average:
      starts['depth_scale_R'] = 1.0
    return weights | {
      name: nnx.Param(
        jnp.full(inner, start, jnp.float32), axes=linear.AXES[1:], decays=False
      )
      for name, start in starts.items()
    }

  def state(
    self, w: dict[str, jax.Array], inputs: base.ScorerInput
  ) -> jax.Array:
    r_TR = linear.product(inputs.x_TD, w['w_down_DR']) + w['b_down_R']
    if self.depth_average and inputs.state_TR is not None:
      r_TR = r_TR + w['depth_scale_R'] * inputs.state_TR
    return r_TR

  def __call__(
    self, w: dict[str, jax.Array], inputs: base.ScorerInput
  ) -> jax.Array:
    h_TR = self.state(w, inputs)
    square_T1 = jnp.mean(jnp.square(h_TR), axis=-1, keepdims=True)
    h_TR = h_TR * jax.lax.rsqrt(square_T1 + EPS) * w['norm_scale_R']
    for name in ('one', 'two'):
      h_TR = linear.product(h_TR, w[f'w_{name}_RR']) + w[f'b_{name}_R']
      h_TR = special.gelu(h_TR)
    return linear.product(h_TR, w['w_out_RE'])
