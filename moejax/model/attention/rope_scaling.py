"""SCALINGS: rotary frequencies for texts longer than those of training.

A model that was trained on short texts is stretched to long ones by lowering
its frequencies: all of them (`linear`), the low ones (`yarn`, `llama3`), or
those of long texts alone (`dynamic`, `longrope`). `Unscaled` is the protocol;
the others override what is different.
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
    """Raises InputError if it does not fit heads with `dim` rotary features."""

  def shrunk(self, dim: int) -> 'Unscaled':
    """The same for a model shrunk to heads with `dim` rotary features."""
    del dim
    return self

  def frequencies(self, base: float, dim: int) -> np.ndarray:
    """Radians per token of each pair of features: float64 [dim / 2]."""
    return base ** -(np.arange(dim // 2) * 2 / dim)

  def per_token(
    self, base: float, dim: int, longest: Callable[[], jax.Array]
  ) -> jax.Array:
    """float32 frequencies: [dim / 2], or [B, L, dim / 2] if texts differ.

    Args:
      base: of the wave lengths.
      dim: rotary features of a head.
      longest: returns longest_BL, the number of tokens in each token's text.
    """
    del longest
    return jnp.asarray(self.frequencies(base, dim), jnp.float32)

  @property
  def amplitude(self) -> float:
    """The factor of cos and sin."""
    return 1.0

  @property
  def score_factor(self) -> float:
    """The factor of attention's scores besides K^-0.5."""
    return 1.0


@dataclasses.dataclass(frozen=True)
class LinearScaling(Unscaled):
  """Positions are divided by `factor` (position interpolation, 2306.15595)."""

  factor: float = fields.number(1.0, at_least=1, at_most=10**6)

  def frequencies(self, base: float, dim: int) -> np.ndarray:
    return super().frequencies(base, dim) / self.factor


@dataclasses.dataclass(frozen=True)
class YarnScaling(Unscaled):
  """Low frequencies are divided by `factor`, high ones kept (2309.00071).

  Section 3.2 ("NTK-by-parts"): the frequency of a pair that makes more than
  `beta_fast` rotations within the original length is kept, that of a pair with
  fewer than `beta_slow` is divided; between them the two are mixed, linearly in
  the pair's number. Section 3.3: scores are multiplied by t^2, t = 0.1
  ln(factor) + 1, which is done by multiplying cos and sin by t.

  DeepSeek-V2 and V3 write t_m = 0.1 m ln(factor) + 1: cos and sin are
  multiplied by t_mscale / t_mscale_all (1 in both models, where the two are
  equal), and all scores, including the part without positions, by
  t_mscale_all^2.

  Attributes:
    factor: length of the longest text, as a multiple of the original length.
    length: original length: tokens of the texts in training.
    beta_fast: rotations above which a frequency is kept.
    beta_slow: rotations below which it is divided; in Kimi-K2 equal to
      `beta_fast`, so that each frequency is either kept or divided.
    mscale, mscale_all: see above; the paper's method has 0 for both.
    attention_factor: factor of cos and sin; 0: computed as above.
    whole: whether the numbers of the two pairs between which frequencies are
      mixed are rounded outwards, as in the paper's code but not in gpt-oss.
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

  def frequencies(self, base: float, dim: int) -> np.ndarray:
    plain = super().frequencies(base, dim)

    def pair(rotations: float) -> float:
      """Number of the pair with so many rotations in the original length."""
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
    """t_m."""
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
  """As in Llama 3.1's code: by wave length compared with the original length.

  The frequencies of waves longer than length / low are divided by `factor`,
  those of waves shorter than length / high are kept, and in between the two are
  mixed.
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
  """Texts longer than `length` have a larger base ("dynamic NTK").

  A text of n > length tokens has the frequencies of
  base * (factor * n / length - (factor - 1))^(K / (K - 2)), with which the
  slowest pair rotates over n tokens as far as it did over `length` (2309.00071,
  section 3.3, "Dynamic NTK"). Shorter texts have the frequencies of training.

  Attributes:
    factor: how much faster than n / length the base grows; 1 is that ratio.
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
    # The exponents K / (K - 2) of the base and -2i / K of base^(-2i / K).
    power = -(np.arange(dim // 2) * 2) / max(dim - 2, 1)
    return jnp.asarray(plain, jnp.float32) * grown_BL1 ** jnp.asarray(
      power, jnp.float32
    )


@dataclasses.dataclass(frozen=True)
class LongRopeScaling(Unscaled):
  """Every pair has its own divisors, found by a search (2402.13753).

  Attributes:
    short: divisors of the frequencies, one for each pair, for texts of at most
      `length` tokens.
    long: those for longer texts.
    length: tokens of the texts in training.
    attention_factor: factor of cos and sin; in the paper's code sqrt(1 +
      ln(factor) / ln(length)) for texts `factor` times as long.
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
          'pairs of features of a head are rotated; give it one for each'
        )

  def shrunk(self, dim: int) -> 'LongRopeScaling':
    """With dim / 2 divisors: some are left out, or some repeated."""
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
