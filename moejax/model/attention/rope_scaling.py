"""SCALINGS: rotary frequencies for texts longer than those of training.

A model that was trained on short texts can read longer ones if its rotary
frequencies are lowered. `linear` lowers all of them, `yarn` and `llama3` only
the low ones. `dynamic` and `longrope` choose the frequencies by the length of
the text: `dynamic` lowers them for texts longer than those of training, and
`longrope` has one set for these and one for shorter texts. `Unscaled` is the
protocol; each other class overrides the methods in which it differs.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from moejax.core import errors, fields


@dataclasses.dataclass(frozen=True)
class Unscaled(fields.Checked):
  """Frequencies base^(-2i / K)."""

  def check(self, dim: int) -> None:
    """Raises InputError if it cannot serve heads with `dim` rotary features."""

  def shrunk(self, dim: int) -> 'Unscaled':
    """This scaling for a model shrunk to heads with `dim` rotary features."""
    del dim
    return self

  def frequencies(self, base: float, dim: int) -> np.ndarray:
    """Radians per token, float64 [dim / 2]: one for each pair of features."""
    return base ** -(np.arange(dim // 2) * 2 / dim)

  def per_token(
    self, base: float, dim: int, longest: Callable[[], jax.Array]
  ) -> jax.Array:
    """Radians per token, float32 [dim / 2] or [B, L, dim / 2].

    The second shape is that of scalings whose frequencies depend on the length
    of a text.

    Args:
      base: the base of the frequencies base^(-2i / dim).
      dim: rotary features of a head.
      longest: returns longest_BL: for each token of the rows, the number of
        tokens of the text that it belongs to. Only scalings that depend on the
        length call this function.
    """
    del longest
    return jnp.asarray(self.frequencies(base, dim), jnp.float32)

  @property
  def amplitude(self) -> float:
    """The factor by which cos and sin are multiplied."""
    return 1.0

  @property
  def score_factor(self) -> float:
    """The factor of attention scores that comes on top of K^-0.5."""
    return 1.0


@dataclasses.dataclass(frozen=True)
class LinearScaling(Unscaled):
  """Positions are divided by `factor` (position interpolation, 2306.15595).

  Attributes:
    factor: length of the longest text, as a multiple of the original length.
  """

  factor: float = fields.number(1.0, at_least=1, at_most=10**6)

  def frequencies(self, base: float, dim: int) -> np.ndarray:
    return super().frequencies(base, dim) / self.factor


@dataclasses.dataclass(frozen=True)
class YarnScaling(Unscaled):
  """Low frequencies are divided by `factor`, high ones kept (2309.00071).

  Section 3.2 ("NTK-by-parts"): a pair of features keeps its frequency if it
  makes more than `beta_fast` rotations within the original length. The
  frequency is divided if it makes fewer than `beta_slow`. Between these two
  limits the kept and the divided frequency are mixed, linearly in the number of
  the pair. Section 3.3: attention scores are multiplied by t^2, t = 0.1
  ln(factor) + 1. Multiplying cos and sin by t has this effect.

  DeepSeek-V2 and V3 write t_m = 0.1 m ln(factor) + 1: cos and sin are
  multiplied by t_mscale / t_mscale_all, and all scores by t_mscale_all^2,
  including the part of a score that has no positions. Both models have mscale =
  mscale_all, so that the factor of cos and sin is 1.

  Attributes:
    factor: length of the longest text, as a multiple of the original length.
    length: original length: tokens of the texts in training.
    beta_fast: rotations above which a frequency is kept.
    beta_slow: rotations below which it is divided; in Kimi-K2 equal to
      `beta_fast`, so that each frequency is either kept or divided.
    mscale, mscale_all: the two m of DeepSeek's t_m; 0 for both is the paper's
      method.
    attention_factor: factor of cos and sin; 0: the factor described above.
    whole: whether the pairs at the two limits have whole numbers, the lower
      rounded down and the upper rounded up. The paper's code rounds, gpt-oss
      does not.
  """

  factor: float = fields.number(1.0, at_least=1, at_most=10**6)
  length: int = fields.number(4096, at_least=1)
  beta_fast: float = fields.number(32.0, above=0, at_most=10**6)
  beta_slow: float = fields.number(1.0, above=0, at_most=10**6)
  mscale: float = fields.number(0.0, at_least=0, at_most=100)
  mscale_all: float = fields.number(0.0, at_least=0, at_most=100)
  attention_factor: float = fields.number(
    0.0, at_least=0, at_most=100, note='0: it follows from the other keys'
  )
  whole: bool = True

  def __post_init__(self):
    super().__post_init__()
    if self.beta_slow > self.beta_fast:
      raise errors.InputError(
        f'beta_slow={self.beta_slow} must be at most beta_fast={self.beta_fast}'
      )

  def frequencies(self, base: float, dim: int) -> np.ndarray:
    plain = super().frequencies(base, dim)

    def pair(rotations: float) -> float:
      """Number of the pair that makes `rotations` in the original length."""
      waves = self.length / (2 * math.pi * rotations)
      return dim * math.log(waves) / (2 * math.log(base))

    low, high = pair(self.beta_fast), pair(self.beta_slow)
    if self.whole:
      low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    slope = max(high - low, 1e-3)
    divided = np.clip((np.arange(dim // 2) - low) / slope, 0, 1)
    return plain * (1 - divided) + plain / self.factor * divided

  def _temperature(self, m: float) -> float:
    """t_m of the docstring of the class."""
    return 0.1 * m * math.log(self.factor) + 1 if self.factor > 1 else 1.0

  @property
  def amplitude(self) -> float:
    if self.attention_factor:
      return self.attention_factor
    if self.mscale and self.mscale_all:
      return self._temperature(self.mscale) / self._temperature(self.mscale_all)
    return self._temperature(1.0)

  @property
  def score_factor(self) -> float:
    return self._temperature(self.mscale_all) ** 2 if self.mscale_all else 1.0


@dataclasses.dataclass(frozen=True)
class Llama3Scaling(Unscaled):
  """The rule of Llama 3.1's code, which goes by the wave length of a pair.

  Frequencies of waves longer than length / low tokens are divided by `factor`,
  and those of waves shorter than length / high are kept. In between the kept
  and the divided frequency are mixed, linearly in the number of waves that fit
  into `length`.

  Attributes:
    factor: divisor of the low frequencies.
    low: waves within `length` at or below which a frequency is divided.
    high: waves within `length` at or above which a frequency is kept.
    length: original length: tokens of the texts in training.
  """

  factor: float = fields.number(8.0, at_least=1, at_most=10**6)
  low: float = fields.number(1.0, above=0, at_most=10**6)
  high: float = fields.number(4.0, above=0, at_most=10**6)
  length: int = fields.number(8192, at_least=1)

  def __post_init__(self):
    super().__post_init__()
    if self.low >= self.high:
      raise errors.InputError(f'low={self.low} must be below high={self.high}')

  def frequencies(self, base: float, dim: int) -> np.ndarray:
    plain = super().frequencies(base, dim)
    waves = self.length * plain / (2 * math.pi)
    kept = np.clip((waves - self.low) / (self.high - self.low), 0, 1)
    return plain * kept + plain / self.factor * (1 - kept)


@dataclasses.dataclass(frozen=True)
class DynamicScaling(Unscaled):
  """A text longer than `length` has a larger base ("dynamic NTK").

  The base for a text of n > length tokens is
  base * (factor * n / length - (factor - 1))^(K / (K - 2)). With factor 1 the
  slowest pair then rotates over n tokens as far as it did over `length` in
  training (2309.00071, section 3.3, "Dynamic NTK"). Shorter texts have the
  frequencies of training.

  Attributes:
    factor: growth of the bracket above per n / length; with 1 the bracket is n
      / length.
    length: tokens of the texts in training.
  """

  factor: float = fields.number(1.0, at_least=1, at_most=10**6)
  length: int = fields.number(4096, at_least=1)

  def per_token(
    self, base: float, dim: int, longest: Callable[[], jax.Array]
  ) -> jax.Array:
    plain = super().frequencies(base, dim)
    ratio_BL = jnp.maximum(longest() / self.length, 1.0)
    grown_BL1 = (self.factor * ratio_BL - (self.factor - 1))[..., None]
    # The product of the exponents K / (K - 2), of the base, and -2i / K.
    power = -(np.arange(dim // 2) * 2) / max(dim - 2, 1)
    return jnp.asarray(plain, jnp.float32) * grown_BL1 ** jnp.asarray(
      power, jnp.float32
    )


@dataclasses.dataclass(frozen=True)
class LongRopeScaling(Unscaled):
  """Every pair has two divisors of its own, found by a search (2402.13753).

  Attributes:
    short: divisors of the frequencies for texts of at most `length` tokens, one
      for each pair of features.
    long: divisors of the frequencies for longer texts, one for each pair.
    length: tokens of the texts in training.
    attention_factor: factor of cos and sin; the paper's code has sqrt(1 + ln(s)
      / ln(length)) for texts that are s times as long as those of training.
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
          'pairs of features of a head are rotated; give one number for each'
        )

  def shrunk(self, dim: int) -> 'LongRopeScaling':
    """With dim / 2 divisors: some of them are left out, or repeated."""
    pairs = dim // 2
    short, long = (
      tuple(divisors[i * len(divisors) // pairs] for i in range(pairs))
      for divisors in (self.short, self.long)
    )
    return dataclasses.replace(self, short=short, long=long)

  def frequencies(self, base: float, dim: int) -> np.ndarray:
    return super().frequencies(base, dim) / np.asarray(self.short)

  def per_token(
    self, base: float, dim: int, longest: Callable[[], jax.Array]
  ) -> jax.Array:
    plain = super().frequencies(base, dim)
    short, long = (
      jnp.asarray(plain / np.asarray(divisors), jnp.float32)
      for divisors in (self.short, self.long)
    )
    return jnp.where(longest()[..., None] > self.length, long, short)

  @property
  def amplitude(self) -> float:
    return self.attention_factor


# name in a config -> the class
SCALINGS: dict[str, type[Unscaled]] = {
  'none': Unscaled,
  'linear': LinearScaling,
  'yarn': YarnScaling,
  'llama3': Llama3Scaling,
  'dynamic': DynamicScaling,
  'longrope': LongRopeScaling,
}
