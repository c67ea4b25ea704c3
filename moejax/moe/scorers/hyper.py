"""A router whose matrix a frozen network makes from a learned vector."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from moejax.core import fields
from moejax.moe.scorers import base, cosine, linear

FROZEN = ('w_DH', 'b_H', 'w_HN', 'b_N')


def _normal(key: jax.Array, shape: tuple[int, ...], fan_in: int) -> jax.Array:
  del fan_in
  if len(shape) == 1:
    return jnp.zeros(shape, jnp.float32)
  return 0.02 * jax.random.normal(key, shape, jnp.float32)


# How the matrices and biases of H are drawn.
STARTS = {'normal': _normal, 'pytorch': cosine.uniform_by_fan_in}


@dataclasses.dataclass(frozen=True)
class Hyper(base.Scorer):
  """logits = W x + b, where [W | b] = H(r): HyperRouter.

  HyperRouter (arXiv 2312.07035): H is linear, ReLU, linear, frozen at its
  initial values; the embedding r of the layer is trained. The published router
  is top k with the softmax over the kept logits (`router.renormalise`).

      r_D --w_DH, b_H--> ReLU --w_HN, b_N--> N = E (D + 1) numbers

  LibMoE's version also trains r and freezes H; it has `hidden` = D / 4 and
  start=normal. In both versions k grows during training, which is not here.

  Attributes:
    hidden: hidden width of H; the paper's code has 256, and 64 for enwik8.
    learns_embedding: whether r is trained, as in both versions; if not, no
      weight of the router is trained.
    start: how H is drawn: `pytorch`, matrices and biases uniform in
      +-1 / sqrt(inputs), as in the authors' code; `normal`, matrices of
      deviation 0.02 and biases of zero, as in LibMoE.
  """

  hidden: int = fields.number(256, at_least=1)
  learns_embedding: bool = True
  start: str = fields.named(STARTS, 'pytorch')

  def init(
    self, key: jax.Array, width: int, num: int, std: float
  ) -> dict[str, nnx.Param]:
    del std
    keys = jax.random.split(key, 5)
    made = num * (width + 1)
    draw = STARTS[self.start]
    frozen = {
      'w_DH': draw(keys[0], (width, self.hidden), width),
      'b_H': draw(keys[1], (self.hidden,), width),
      'w_HN': draw(keys[2], (self.hidden, made), self.hidden),
      'b_N': draw(keys[3], (made,), self.hidden),
    }
    weights = {
      name: nnx.Param(w, axes=('unsharded',) * w.ndim, decays=False)
      for name, w in frozen.items()
    }
    r_D = jax.random.normal(keys[4], (width,), jnp.float32)
    r = nnx.Param(r_D, axes=('unsharded',), decays=False)
    return {**weights, 'r_D': r}

  def __call__(
    self, w: dict[str, jax.Array], inputs: base.ScorerInput
  ) -> jax.Array:
    frozen = {name: jax.lax.stop_gradient(w[name]) for name in FROZEN}
    r_D = w['r_D']
    if not self.learns_embedding:
      r_D = jax.lax.stop_gradient(r_D)
    hidden_H = linear.product(r_D, frozen['w_DH']) + frozen['b_H']
    made_N = linear.product(jax.nn.relu(hidden_H), frozen['w_HN'])
    w_EC = (made_N + frozen['b_N']).reshape(-1, inputs.x_TD.shape[1] + 1)
    return linear.product(inputs.x_TD, w_EC[:, :-1].T) + w_EC[:, -1]
