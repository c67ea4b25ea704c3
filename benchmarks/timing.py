"""Functions timed in turn, and how their times are compared."""

import dataclasses
import resource
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

WARM_UP = 2


@dataclasses.dataclass(frozen=True)
class Part:
  """A function to time.

  Attributes:
    name: of its row in a table.
    run: the function, jitted.
    arguments: of the function.
    flops: floating-point operations of one call.
    times: how often a training step calls it.
  """

  name: str
  run: Callable[..., Any]
  arguments: tuple[Any, ...]
  flops: float = 0.0
  times: int = 0


def alternate(parts: Sequence[Part], rounds: int) -> list[list[float]]:
  """The seconds of each part in every round; a round runs all parts in turn.

  WARM_UP rounds more come first, to compile, and are not counted.
  """
  seconds: list[list[float]] = [[] for _ in parts]
  for number in range(WARM_UP + rounds):
    for part, mine in zip(parts, seconds, strict=True):
      begin = time.perf_counter()
      jax.block_until_ready(part.run(*part.arguments))
      if number >= WARM_UP:
        mine.append(time.perf_counter() - begin)
  return seconds


def best(parts: Sequence[Part], rounds: int) -> list[float]:
  """The best time of each part, in seconds."""
  return [min(seconds) for seconds in alternate(parts, rounds)]


def ratios(mine: list[float], other: list[float]) -> tuple[float, float]:
  """`of best` and `of each`.

  The first compares the best times of two sides. The second is the median over
  rounds of each round's own ratio, for which both sides ran within a moment.
  """
  each = np.median(np.array(mine) / np.array(other))
  return min(mine) / min(other), float(each)


def ms(seconds: float) -> str:
  """Seconds as a cell of milliseconds."""
  return f'{seconds * 1e3:8.2f}'


def peak_mb() -> float:
  """The largest resident memory that this process has had, in MiB."""
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  # Kilobytes, but on macOS bytes.
  return peak / (2**20 if sys.platform == 'darwin' else 2**10)
