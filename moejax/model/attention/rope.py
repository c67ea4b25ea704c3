"""Rotary positions (arXiv 2104.09864).

Pairs of features of a query or key are rotated by the angle position *
frequency; the scores then depend on the difference of positions. Pair i is

  halves        x_i and x_{i + K/2}, K features: GPT-NeoX, Llama, most
  interleaved   x_{2i} and x_{2i + 1}: the paper, DeepSeek-V2 and V3

`rope_scaling.py` has the frequencies.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from moejax.core import errors, fields
from moejax.model.attention.rope_scaling import SCALINGS, Unscaled


@dataclasses.dataclass(frozen=True)
class Rope(fields.Checked):
  """The rotation of queries and keys by their positions.

  Attributes:
    base: base of the wave lengths: pair i of K / 2 makes one rotation in
      2 pi base^(2i / K) tokens.
    share: share of a head's features that are rotated, its first ones; the
      others have no position. 1 means all.
    interleaved: whether a pair is two neighbouring features; see the module.
    scaling: change of the frequencies for long texts.
  """

  base: float = fields.number(10000.0, above=1, at_most=10**15)
  share: float = fields.number(1.0, above=0, at_most=1, note='1: all features')
  interleaved: bool = False
  scaling: Unscaled = fields.choice(SCALINGS, Unscaled())

  def rotary_dim(self, head_dim: int) -> int:
    """The number of a head's features that are rotated.

    Raises:
      InputError: the number is odd or 0, or does not fit `scaling`.
    """
    dim = int(head_dim * self.share)
    if dim % 2 or not dim:
      factor = '' if self.share == 1 else f' x model.rope.share={self.share}'
      raise errors.InputError(
        f'model.head_dim={head_dim}{factor} must be even: rotary positions '
        'rotate pairs of features'
      )
    self.scaling.check(dim)
    return dim

  def angles(
    self,
    position_BL: jax.Array,
    dim: int,
    length_B: jax.Array | None = None,
  ) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines for the dim / 2 pairs, each [B, L, dim / 2].

    Args:
      position_BL: int32, position of each token in its text.
      dim: number of rotated features of a head.
      length_B: int32, number of tokens of each row's whole text; None means
        that the texts end with these tokens.
    """

    def longest() -> jax.Array:
      if length_B is None:
        return _longest(position_BL)
      return jnp.broadcast_to(length_B[:, None], position_BL.shape)

    per_token = self.scaling.per_token(self.base, dim, longest)
    angle_BLk = position_BL[..., None].astype(jnp.float32) * per_token
    amplitude = self.scaling.amplitude
    return amplitude * jnp.cos(angle_BLk), amplitude * jnp.sin(angle_BLk)

  def rotate(
    self,
    x_BLHK: jax.Array,
    rotary_angles: tuple[jax.Array, jax.Array],
    platform: str = 'cpu',
    before: int = 0,
  ) -> jax.Array:
    """Rotates the first pairs of features, as many as there are angles.

    Args:
      x_BLHK: queries or keys.
      rotary_angles: from `angles`.
      platform: that of the devices.
      before: number of features before the pairs, which stay as they are.

    Example, K = 6 and two angles (a, b); interleaved and not:
      x     x0 x1 x2 x3 x4 x5
      a b   (x0, x1) by a, (x2, x3) by b; x4 and x5 stay
      a b   (x0, x2) by a, (x1, x3) by b; x4 and x5 stay
    """
    cos, sin = (t[:, :, None, :] for t in rotary_angles)
    if platform == 'tpu':
      return self._by_matrix(x_BLHK, cos, sin, before)
    if before:
      plain, x_BLHK = jnp.split(x_BLHK, [before], axis=-1)
      rotated_BLHK = self.rotate(x_BLHK, rotary_angles, platform)
      return jnp.concatenate([plain, rotated_BLHK], axis=-1)
    dim = 2 * cos.shape[-1]
    x32, rest = jnp.split(x_BLHK.astype(jnp.float32), [dim], axis=-1)
    if self.interleaved:
      pairs = x32.reshape(*x32.shape[:-1], -1, 2)
      a, b = pairs[..., 0], pairs[..., 1]
    else:
      a, b = jnp.split(x32, 2, axis=-1)
    rotated = [a * cos - b * sin, b * cos + a * sin]
    if self.interleaved:
      y = jnp.stack(rotated, axis=-1).reshape(x32.shape)
    else:
      y = jnp.concatenate(rotated, axis=-1)
    return jnp.concatenate([y, rest], axis=-1).astype(x_BLHK.dtype)

  def _by_matrix(self, x_BLHK, cos, sin, before):
    """`rotate` for TPU: a permutation matrix swaps the features of pairs.

    The product is exact. Splitting heads into halves instead would make a TPU,
    which keeps features in lanes of 128, write each half in the memory of a
    whole head.
    """
    dim, width = 2 * cos.shape[-1], x_BLHK.shape[-1]
    place = np.arange(dim)
    if self.interleaved:
      partner, sign = place ^ 1, 2 * (place % 2) - 1
      spread = lambda t: jnp.repeat(t, 2, axis=-1)
    else:
      partner, sign = (place + dim // 2) % dim, np.sign(place - dim / 2 + 0.5)
      spread = lambda t: jnp.concatenate([t, t], axis=-1)
    swap_KK = np.zeros((width, width))
    swap_KK[before + partner, before + place] = sign
    other_BLHK = jnp.einsum(
      'BLHK,KJ->BLHJ',
      x_BLHK,
      jnp.asarray(swap_KK, x_BLHK.dtype),
      precision=jax.lax.Precision.HIGHEST,
    )
    # Features without an angle stay as they are.
    fill = lambda t, value: jnp.pad(
      spread(t),
      ((0, 0),) * 3 + ((before, width - dim - before),),
      constant_values=value,
    )
    y_BLHK = x_BLHK.astype(jnp.float32) * fill(cos, 1)
    y_BLHK += other_BLHK.astype(jnp.float32) * fill(sin, 0)
    return y_BLHK.astype(x_BLHK.dtype)


def _longest(position_BL: jax.Array) -> jax.Array:
  """The number of tokens of each token's text, from the positions.

  Example:
    position  0 1 2 0 1 0 1 2 3
    longest   3 3 3 2 2 4 4 4 4
  """
  length = position_BL.shape[1]
  ends_BL = jnp.roll(position_BL, -1, axis=1) != position_BL + 1
  ends_BL = ends_BL.at[:, -1].set(True)
  at_BL = jnp.where(ends_BL, jnp.arange(length), length)
  end_BL = jax.lax.cummin(at_BL, axis=1, reverse=True)
  return jnp.take_along_axis(position_BL, end_BL, axis=1) + 1
