"""RANGES: from which values a search draws a config key, by their names.

  sweep.search(runs, {
    'opt.peak_lr': sweep.log_uniform(1e-4, 1e-2),
    'model.moe.router.k': sweep.integers(1, 4),
    'model.moe.router': sweep.choice(['top_k', 'gshard']),
  }, num=20)

Values are drawn as the texts of flags, with six significant digits.
"""

import dataclasses
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from moejax.core import errors


class Range(Protocol):
  """The values of one config key."""

  def ends(self) -> list[str]:
    """The values that show whether all of them fit the key."""
    ...

  def draw(self, rng: random.Random) -> str:
    """A random value."""
    ...

  def distribution(self, optuna: Any) -> Any:
    """The same range as optuna has it; `optuna` is the module."""
    ...

  def text(self, value: Any) -> str:
    """A value of optuna's as the text of a flag."""
    ...


def _check_order(kind: str, low: Any, high: Any, types: Any) -> None:
  for end in (low, high):
    whole = isinstance(end, types) and not isinstance(end, bool)
    if not whole or not math.isfinite(end):
      what = 'a whole number' if types is int else 'a finite number'
      raise errors.InputError(
        f'{kind}({low!r}, {high!r}): {end!r} is not {what}'
      )
  if low >= high:
    raise errors.InputError(
      f'{kind}({low!r}, {high!r}): the lower end must be below the upper one'
    )


@dataclasses.dataclass(frozen=True)
class Uniform:
  """Numbers from `low` to `high`, all equally likely."""

  low: float
  high: float

  def __post_init__(self) -> None:
    _check_order('uniform', self.low, self.high, (int, float))

  def ends(self) -> list[str]:
    """Both ends."""
    return [self.text(self.low), self.text(self.high)]

  def draw(self, rng: random.Random) -> str:
    """A number."""
    return self.text(rng.uniform(self.low, self.high))

  def distribution(self, optuna: Any) -> Any:
    """A FloatDistribution."""
    return optuna.distributions.FloatDistribution(self.low, self.high)

  def text(self, value: Any) -> str:
    """Six digits, within the ends."""
    return str(min(max(float(f'{value:.6g}'), self.low), self.high))


class LogUniform(Uniform):
  """Numbers from `low` to `high` whose logarithms are equally likely."""

  def __post_init__(self) -> None:
    _check_order('log_uniform', self.low, self.high, (int, float))
    if self.low <= 0:
      raise errors.InputError(
        f'log_uniform({self.low!r}, {self.high!r}): {self.low!r} has no '
        'logarithm; both ends must be above 0'
      )

  def draw(self, rng: random.Random) -> str:
    """A number."""
    ends = math.log(self.low), math.log(self.high)
    return self.text(math.exp(rng.uniform(*ends)))

  def distribution(self, optuna: Any) -> Any:
    """A FloatDistribution of logarithms."""
    return optuna.distributions.FloatDistribution(self.low, self.high, log=True)


@dataclasses.dataclass(frozen=True)
class Integers:
  """Whole numbers from `low` to `high`, both included."""

  low: int
  high: int

  def __post_init__(self) -> None:
    _check_order('integers', self.low, self.high, int)

  def ends(self) -> list[str]:
    """Both ends."""
    return [str(self.low), str(self.high)]

  def draw(self, rng: random.Random) -> str:
    """A number."""
    return str(rng.randint(self.low, self.high))

  def distribution(self, optuna: Any) -> Any:
    """An IntDistribution."""
    return optuna.distributions.IntDistribution(self.low, self.high)

  def text(self, value: Any) -> str:
    """Its digits."""
    return str(value)


@dataclasses.dataclass(frozen=True)
class Choice:
  """One of several values."""

  options: Sequence[Any]

  def __post_init__(self) -> None:
    if isinstance(self.options, str) or not self.options:
      raise errors.InputError(
        f"choice({self.options!r}) needs a list of values, such as ['a', 'b']"
      )
    texts = self.ends()
    for option in texts:
      if texts.count(option) > 1:
        raise errors.InputError(
          f'choice({self.options!r}) has {option!r} {texts.count(option)} times'
        )

  def ends(self) -> list[str]:
    """All of them."""
    return [text_of(option) for option in self.options]

  def draw(self, rng: random.Random) -> str:
    """One of them."""
    return rng.choice(self.ends())

  def distribution(self, optuna: Any) -> Any:
    """A CategoricalDistribution of texts."""
    return optuna.distributions.CategoricalDistribution(tuple(self.ends()))

  def text(self, value: Any) -> str:
    """Itself."""
    return str(value)


RANGES: Mapping[str, type] = {
  'uniform': Uniform,
  'log_uniform': LogUniform,
  'integers': Integers,
  'choice': Choice,
}


def check(space: Mapping[str, Any], caller: str) -> None:
  """Raises InputError if a space is empty, or a value of it is no range.

  Args:
    space: ranges by config key.
    caller: the function that the user called.
  """
  if not space:
    raise errors.InputError(
      f'{caller}: the space is empty; name keys, such as '
      "{'opt.peak_lr': sweep.log_uniform(1e-4, 1e-2)}"
    )
  for key, values in space.items():
    if not isinstance(values, tuple(RANGES.values())):
      raise errors.InputError(
        f'{caller}: {key}: {values!r} is no range; use one of '
        f'{", ".join(f"sweep.{name}" for name in RANGES)}'
      )


def text_of(value: Any) -> str:
  """A value as the text of a flag; lists without brackets."""
  if isinstance(value, (list, tuple)):
    return ','.join(map(text_of, value))
  return str(value)
