"""Draws: how often each prompt is continued, and with which temperature."""

import dataclasses
from collections.abc import Sequence

from moejax.core import errors
from moejax.evals.benchmark import Engine, Prompt
from moejax.evals.sampling import Sampling


@dataclasses.dataclass(frozen=True)
class Draws:
  """How often each prompt is continued, and how.

  Attributes:
    samples: continuations of each prompt. Its values are their means, and
      pass@k for k up to their number.
    temperature: of the continuations; 0 takes the most probable tokens.
    seed: seed of the first ones; the next ones have the next seeds.
  """

  samples: int = 1
  temperature: float = 0.0
  seed: int = 0

  def __post_init__(self) -> None:
    if self.samples < 1:
      raise errors.InputError(f'samples={self.samples} must be >= 1')
    if not self.temperature >= 0:
      raise errors.InputError(f'temperature={self.temperature} must be >= 0')
    if self.samples > 1 and not self.temperature:
      raise errors.InputError(
        f'samples={self.samples} with temperature=0 are equal texts: set a '
        'temperature, such as 0.8'
      )

  def texts(self, engine: Engine, prompts: Sequence[Prompt]) -> list[list[str]]:
    """The continuations of each prompt."""
    if not self.temperature:
      return [[text] for text in engine.generate(prompts)]
    drawn = [
      engine.generate(prompts, Sampling(self.temperature), self.seed + number)
      for number in range(self.samples)
    ]
    return [list(texts) for texts in zip(*drawn, strict=True)]


GREEDY = Draws()
