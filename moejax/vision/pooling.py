"""POOLINGS: what makes one vector of the tokens of an image, by name."""

from typing import ClassVar, Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from moejax.core import linear
from moejax.vision import layers


class Sizes(Protocol):
  """What a pooling reads of the encoder's config; see `VisionConfig`."""

  @property
  def width(self) -> int: ...
  @property
  def num_heads(self) -> int: ...
  @property
  def head_dim(self) -> int: ...
  @property
  def hidden_width(self) -> int: ...
  @property
  def activation(self) -> str: ...
  @property
  def norm_eps(self) -> float: ...
  @property
  def init_std(self) -> float: ...


class Pooling(nnx.Module):
  """The base of poolings, and the one that makes no vector."""

  needs_class_token: ClassVar[bool] = False

  def __init__(self, sizes: Sizes, platform: str, key: jax.Array):
    del sizes, platform, key

  def __call__(
    self, x_BND: jax.Array, norm: layers.LayerNorm
  ) -> tuple[jax.Array, jax.Array | None]:
    """The tokens after the last layer, and one vector of each image [B, D].

    Args:
      x_BND: output of the last layer.
      norm: the last norm of the encoder.
    """
    return norm(x_BND), None


class ClassPooling(Pooling):
  """CLIP: the class token, normalised; the tokens are not normalised."""

  needs_class_token = True

  def __call__(
    self, x_BND: jax.Array, norm: layers.LayerNorm
  ) -> tuple[jax.Array, jax.Array]:
    """See `Pooling`."""
    return x_BND, norm(x_BND[:, 0])


class AttentionPooling(Pooling):
  """SigLIP: a learned query attends to the normalised tokens.

  A feed-forward follows, before a residual sum. Source: arXiv 2106.04560,
  appendix B (multihead attention pooling).
  """

  def __init__(self, sizes: Sizes, platform: str, key: jax.Array):
    width, std = sizes.width, sizes.init_std
    heads = sizes.num_heads, sizes.head_dim
    keys = jax.random.split(key, 4)
    self.query_D = nnx.Param(
      std * jax.random.normal(keys[0], (width,)), axes=('embed',), decays=False
    )
    axes = ('unsharded', 'heads', 'head_dim')
    # Queries, keys and values.
    self.w_D3HK = layers.matrix(
      keys[1], (width, 3, *heads), ('embed', *axes), std
    )
    self.b_3HK = layers.zeros((3, *heads), axes)
    self.w_o_HKD = layers.matrix(
      keys[2], (*heads, width), ('heads', 'head_dim', 'embed'), std
    )
    self.b_o_D = layers.zeros((width,), ('embed',))
    self.norm = layers.LayerNorm(width, sizes.norm_eps)
    self.ffn = layers.FeedForward(
      (width, sizes.hidden_width, width),
      sizes.activation,
      std,
      platform,
      keys[3],
    )
    self.linear = linear.of(platform)

  def __call__(
    self, x_BND: jax.Array, norm: layers.LayerNorm
  ) -> tuple[jax.Array, jax.Array]:
    """See `Pooling`."""
    x_BND = norm(x_BND)
    w, b = (w[...].astype(x_BND.dtype) for w in (self.w_D3HK, self.b_3HK))
    query_1D = self.query_D[...].astype(x_BND.dtype)[None]
    q_HK = self.linear(query_1D, w[:, 0])[0] + b[0]
    kv = self.linear(x_BND, w[:, 1:]) + b[1:]
    q_B1HK = jnp.broadcast_to(q_HK, (x_BND.shape[0], 1, *q_HK.shape))
    o_B1HK = layers.attend(q_B1HK, kv[:, :, 0], kv[:, :, 1])
    w_o = self.w_o_HKD[...].astype(x_BND.dtype)
    out_BD = self.linear(o_B1HK[:, 0], w_o, contract=2)
    out_BD += self.b_o_D[...].astype(out_BD.dtype)
    return x_BND, out_BD + self.ffn(self.norm(out_BD))


# Name in a config -> class, made from (config, platform, key).
POOLINGS: dict[str, type[Pooling]] = {
  'attention': AttentionPooling,
  'class': ClassPooling,
  'none': Pooling,
}
