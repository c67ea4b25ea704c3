"""Rotary positions (arXiv 2104.09864) and how they are stretched.

Feature pairs of a query or key turn by the angle position * frequency; the
scores then depend on the difference of positions. What is called pair i:

  halves        x_i and x_{i + K/2}, K features: GPT-NeoX, Llama, most
  interleaved   x_{2i} and x_{2i + 1}: the paper, DeepSeek-V2 and V3

A model that was trained on short texts is stretched to long ones by lowering
its frequencies, all (`linear`) or the low ones (`yarn`, `llama3`), or those of
long texts alone (`dynamic`, `longrope`).
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from moejax.core import errors, fields


@dataclasses.dataclass(frozen=True)
class Plain(fields.Checked):
  """Frequencies base^(-2i / K)."""

  def check(self, dim: int) -> None:
    """Raises InputError if it is not for heads of which `dim` features turn."""

  def shrunk(self, dim: int) -> 'Plain':
    """The same for a model that is shrunk to heads of which `dim` turn."""
    del dim
    return self

  def frequencies(self, rope: 'Rope', dim: int) -> np.ndarray:
    """Of each of the dim / 2 pairs, in radians per token, float64."""
    return rope.base ** -(np.arange(dim // 2) * 2 / dim)

  def per_token(
    self, rope: 'Rope', dim: int, longest: Callable[[], jax.Array]
  ) -> jax.Array:
    """The same as float32, [dim / 2], or [B, L, dim / 2] by text.

    Args:
      rope: what it scales.
      dim: features that turn.
      longest: gives longest_BL, how many tokens the text of each token has.
    """
    del longest
    return jnp.asarray(self.frequencies(rope, dim), jnp.float32)

  @property
  def amplitude(self) -> float:
    """What cos and sin are multiplied by."""
    return 1.0

  @property
  def score_factor(self) -> float:
    """What attention's scores are multiplied by, besides K^-0.5."""
    return 1.0


@dataclasses.dataclass(frozen=True)
class Linear(Plain):
  """Positions are divided by `factor` (position interpolation, 2306.15595)."""

  factor: float = fields.number(1.0, at_least=1, at_most=10**6)

  def frequencies(self, rope: 'Rope', dim: int) -> np.ndarray:
    return super().frequencies(rope, dim) / self.factor


@dataclasses.dataclass(frozen=True)
class Yarn(Plain):
  """Low frequencies are divided by `factor`, high ones kept (2309.00071).

  Section 3.2 ("NTK-by-parts"): a pair that turns more than `beta_fast` times
  within the original length is kept, one that turns less than `beta_slow` times
  is divided; between them the share goes linearly with the pair's number.
  Section 3.3: scores are multiplied by t^2, t = 0.1 ln(factor) + 1, by making
  cos and sin longer by t.

  DeepSeek-V2 and V3 write t_m = 0.1 m ln(factor) + 1: cos and sin are longer by
  t_mscale / t_mscale_all (1 in both models, where the two are equal), and
  all scores, those of features without positions included, are multiplied by
  t_mscale_all^2.

  Attributes:
    factor: times the original length that the model is to be used for.
    length: tokens that it was trained on.
    beta_fast: turns above which a frequency is kept.
    beta_slow: turns below which it is divided; the same number in Kimi-K2,
      where each frequency is either kept or divided.
    mscale, mscale_all: see above; 0 and 0 are the paper's.
    attention_factor: what cos and sin are multiplied by, if it does not follow
      from those; 0: it does.
    whole: whether the two pairs between which the share grows are rounded
      outwards; in the paper's code they are, in gpt-oss not.
  """

  factor: float = fields.number(1.0, at_least=1, at_most=10**6)
  length: int = fields.number(4096, at_least=1)
  beta_fast: float = fields.number(32.0, above=0, at_most=10**6)
  beta_slow: float = fields.number(1.0, above=0, at_most=10**6)
  mscale: float = fields.number(0.0, at_least=0, at_most=100)
  mscale_all: float = fields.number(0.0, at_least=0, at_most=100)
  attention_factor: float = fields.number(
    0.0, at_least=0, at_most=100, note='0: it follows from the others'
  )
  whole: bool = True

  def __post_init__(self):
    super().__post_init__()
    if self.beta_slow > self.beta_fast:
      raise errors.InputError(
        f'beta_slow={self.beta_slow} must be at most beta_fast={self.beta_fast}'
      )

  def frequencies(self, rope: 'Rope', dim: int) -> np.ndarray:
    plain = super().frequencies(rope, dim)

    def pair(turns: float) -> float:
      """The pair that turns so often within the original length."""
      waves = self.length / (2 * math.pi * turns)
      return dim * math.log(waves) / (2 * math.log(rope.base))

    low, high = pair(self.beta_fast), pair(self.beta_slow)
    if self.whole:
      low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    slope = max(high - low, 1e-3)
    divided = np.clip((np.arange(dim // 2) - low) / slope, 0, 1)
    return plain * (1 - divided) + plain / self.factor * divided

  def _length(self, m: float) -> float:
    return 0.1 * m * math.log(self.factor) + 1 if self.factor > 1 else 1.0

  @property
  def amplitude(self) -> float:
    if self.attention_factor:
      return self.attention_factor
    if self.mscale and self.mscale_all:
      return self._length(self.mscale) / self._length(self.mscale_all)
    return self._length(1.0)

  @property
  def score_factor(self) -> float:
    return self._length(self.mscale_all) ** 2 if self.mscale_all else 1.0


@dataclasses.dataclass(frozen=True)
class Llama3(Plain):
  """As Llama 3.1's code: by wave length against the original length.

  Waves longer than length / low are divided by `factor`, those shorter than
  length / high are kept, and between them the two are mixed.
  """

  factor: float = fields.number(8.0, at_least=1, at_most=10**6)
  low: float = fields.number(1.0, above=0, at_most=10**6)
  high: float = fields.number(4.0, above=0, at_most=10**6)
  length: int = fields.number(8192, at_least=1)

  def __post_init__(self):
    super().__post_init__()
    if self.low >= self.high:
      raise errors.InputError(f'low={self.low} must be below high={self.high}')

  def frequencies(self, rope: 'Rope', dim: int) -> np.ndarray:
    plain = super().frequencies(rope, dim)
    waves = self.length * plain / (2 * math.pi)
    kept = np.clip((waves - self.low) / (self.high - self.low), 0, 1)
    return plain * kept + plain / self.factor * (1 - kept)


@dataclasses.dataclass(frozen=True)
class Dynamic(Plain):
  """Texts longer than `length` are read with a larger base ("dynamic NTK").

  A text of n > length tokens has the frequencies of
  base * (factor * n / length - (factor - 1))^(K / (K - 2)), with which the
  slowest pair turns over n tokens as it did over `length` (2309.00071,
  section 3.3, "Dynamic NTK"). Shorter ones are read as they were trained.

  Attributes:
    factor: how much faster than n / length the base grows; 1 is that ratio.
    length: tokens that it was trained on.
  """

  factor: float = fields.number(1.0, at_least=1, at_most=10**6)
  length: int = fields.number(4096, at_least=1)

  def per_token(
    self, rope: 'Rope', dim: int, longest: Callable[[], jax.Array]
  ) -> jax.Array:
    plain = super().frequencies(rope, dim)
    times_BL = jnp.maximum(longest() / self.length, 1.0)
    grown_BL1 = (self.factor * times_BL - (self.factor - 1))[..., None]
    # Of base^(-2i / K), base to the power of K / (K - 2).
    power = -(np.arange(dim // 2) * 2) / max(dim - 2, 1)
    return jnp.asarray(plain, jnp.float32) * grown_BL1 ** jnp.asarray(
      power, jnp.float32
    )


@dataclasses.dataclass(frozen=True)
class LongRope(Plain):
  """Frequencies are divided pair by pair, as a search found (2402.13753).

  Attributes:
    short: divisors for texts of at most `length` tokens, one a pair.
    long: for longer ones.
    length: tokens that it was trained on.
    attention_factor: what cos and sin are multiplied by; the paper's code has
      sqrt(1 + ln(factor) / ln(length)) for texts `factor` times as long.
  """

  short: tuple[float, ...] = fields.number((), above=0, at_most=10**6)
  long: tuple[float, ...] = fields.number((), above=0, at_most=10**6)
  length: int = fields.number(4096, at_least=1)
  attention_factor: float = fields.number(1.0, above=0, at_most=100)

  def check(self, dim: int) -> None:
    for name, divisors in (('short', self.short), ('long', self.long)):
      if len(divisors) != dim // 2:
        raise errors.InputError(
          f'rope.scaling.{name} has {len(divisors)} numbers, but {dim // 2} '
          'pairs of features of a head turn; give it one for each'
        )

  def shrunk(self, dim: int) -> 'LongRope':
    """With some of the divisors, or some of them several times."""
    pairs = dim // 2
    short, long = (
      tuple(divisors[i * len(divisors) // pairs] for i in range(pairs))
      for divisors in (self.short, self.long)
    )
    return dataclasses.replace(self, short=short, long=long)

  def frequencies(self, rope: 'Rope', dim: int) -> np.ndarray:
    return super().frequencies(rope, dim) / np.asarray(self.short)

  def per_token(
    self, rope: 'Rope', dim: int, longest: Callable[[], jax.Array]
  ) -> jax.Array:
    plain = super().frequencies(rope, dim)
    short, long = (
      jnp.asarray(plain / np.asarray(divisors), jnp.float32)
      for divisors in (self.short, self.long)
    )
    return jnp.where(longest()[..., None] > self.length, long, short)

  @property
  def amplitude(self) -> float:
    return self.attention_factor


SCALINGS = {
  'none': Plain,
  'linear': Linear,
  'yarn': Yarn,
  'llama3': Llama3,
  'dynamic': Dynamic,
  'longrope': LongRope,
}


@dataclasses.dataclass(frozen=True)
class Rope(fields.Checked):
  """How queries and keys are turned by their positions.

  Attributes:
    base: of the wave lengths: pair i of K / 2 turns once in 2 pi
      base^(2i / K) tokens.
    share: of a head's features that turn, the first ones; the others have no
      position. 1 is all.
    interleaved: whether a pair is two neighbours; see the module.
    scaling: how the frequencies are lowered.
  """

  base: float = fields.number(10000.0, above=1, at_most=10**15)
  share: float = fields.number(1.0, above=0, at_most=1, note='1: all features')
  interleaved: bool = False
  scaling: Plain = fields.choice(SCALINGS, Plain())

  def turning(self, head_dim: int) -> int:
    """How many of a head's features turn.

    Raises:
      InputError: they are no pairs.
    """
    dim = int(head_dim * self.share)
    if dim % 2 or not dim:
      of = '' if self.share == 1 else f' x model.rope.share={self.share}'
      raise errors.InputError(
        f'model.head_dim={head_dim}{of} must be even: rotary positions turn '
        'pairs of features'
      )
    self.scaling.check(dim)
    return dim

  def angles(
    self,
    position_BL: jax.Array,
    dim: int,
    length_B: jax.Array | None = None,
  ) -> tuple[jax.Array, jax.Array]:
    """Cos and sin for the dim / 2 pairs, each [B, L, dim / 2].

    Args:
      position_BL: place of a token in its text.
      dim: features that turn.
      length_B: how many tokens the texts have, one in each row; None: texts end
        where the positions do.
    """

    def longest() -> jax.Array:
      if length_B is None:
        return _longest(position_BL)
      return jnp.broadcast_to(length_B[:, None], position_BL.shape)

    per_token = self.scaling.per_token(self, dim, longest)
    angle_BLk = position_BL[..., None].astype(jnp.float32) * per_token
    long = self.scaling.amplitude
    return long * jnp.cos(angle_BLk), long * jnp.sin(angle_BLk)

  def rotate(
    self,
    x_BLHK: jax.Array,
    turn: tuple[jax.Array, jax.Array],
    platform: str = 'cpu',
  ) -> jax.Array:
    """Turns the first pairs, as many as there are angles.

    Example, K = 6 and two angles (a, b); interleaved and not:
      x     x0 x1 x2 x3 x4 x5
      a b   (x0, x1) by a, (x2, x3) by b; x4 and x5 stay
      a b   (x0, x2) by a, (x1, x3) by b; x4 and x5 stay
    """
    cos, sin = (t[:, :, None, :] for t in turn)
    if platform == 'tpu':
      return self._by_matrix(x_BLHK, cos, sin)
    dim = 2 * cos.shape[-1]
    x32, rest = jnp.split(x_BLHK.astype(jnp.float32), [dim], axis=-1)
    if self.interleaved:
      pairs = x32.reshape(*x32.shape[:-1], -1, 2)
      a, b = pairs[..., 0], pairs[..., 1]
    else:
      a, b = jnp.split(x32, 2, axis=-1)
    turned = [a * cos - b * sin, b * cos + a * sin]
    if self.interleaved:
      y = jnp.stack(turned, axis=-1).reshape(x32.shape)
    else:
      y = jnp.concatenate(turned, axis=-1)
    return jnp.concatenate([y, rest], axis=-1).astype(x_BLHK.dtype)

  def _by_matrix(self, x_BLHK, cos, sin):
    """The same, features changing places by a product with a matrix of ones.

    It is exact. Otherwise a TPU, whose features lie side by side, writes halves
    of heads, each in the room of a whole one.
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
    swap_KK[partner, place] = sign
    other_BLHK = jnp.einsum(
      'BLHK,KJ->BLHJ',
      x_BLHK,
      jnp.asarray(swap_KK, x_BLHK.dtype),
      precision=jax.lax.Precision.HIGHEST,
    )
    # What has no angle stays.
    fill = lambda t, value: jnp.pad(
      spread(t), ((0, 0),) * 3 + ((0, width - dim),), constant_values=value
    )
    y_BLHK = x_BLHK.astype(jnp.float32) * fill(cos, 1)
    y_BLHK += other_BLHK.astype(jnp.float32) * fill(sin, 0)
    return y_BLHK.astype(x_BLHK.dtype)


def _longest(position_BL: jax.Array) -> jax.Array:
  """How many tokens the text of each token has.

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
