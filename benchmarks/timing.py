"""Functions timed in turn, and how their times are compared."""

import dataclasses
import resource
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from moejax.core import exits, huge_pages

WARM_UP = 2


def main(run: Callable[[Sequence[str]], None]) -> None:
  """Runs a benchmark as moejax.main trains: with huge pages; and exits.

  Programs that it starts, such as peers, have them too.
  """
  huge_pages.restart()
  exits.main(run, keeps=False)


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

  WARM_UP more rounds run before, to compile, and are not counted.
  """
  seconds: list[list[float]] = [[] for _ in parts]
  for number in range(WARM_UP + rounds):
    for part, part_seconds in zip(parts, seconds, strict=True):
      begin = time.perf_counter()
      jax.block_until_ready(part.run(*part.arguments))
      if number >= WARM_UP:
        part_seconds.append(time.perf_counter() - begin)
  return seconds


def best(parts: Sequence[Part], rounds: int) -> list[float]:
  """The best time of each part, in seconds."""
  return [min(seconds) for seconds in alternate(parts, rounds)]


def ratios(seconds: list[float], base: list[float]) -> tuple[float, float]:
  """The time of one side over that of another, in two ways.

  Args:
    seconds: times of the one side, by round.
    base: times of the other side, by round.

  Returns:
    `of best`, the ratio of the best times, and `of each`, the median over the
    rounds of each round's own ratio, whose sides ran right after each other.
  """
  each = np.median(np.array(seconds) / np.array(base))
  return min(seconds) / min(base), float(each)


def ms(seconds: float) -> str:
  """A time in seconds as a table cell in milliseconds."""
  return f'{seconds * 1e3:8.2f}'


def peak_mb() -> float:
  """The largest resident memory that this process has had, in MiB."""
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  # ru_maxrss is in kilobytes, on macOS in bytes.
  return peak / (2**20 if sys.platform == 'darwin' else 2**10)
