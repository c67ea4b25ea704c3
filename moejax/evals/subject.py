"""Subject: the trained model that an evaluation scores, and its text."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from etils import epath

from moejax.data.build import Data
from moejax.evals import perplexity
from moejax.evals.perplexity import Score
from moejax.model.build import Model, Weights

# (items, text, number of items) -> the same items, shown as a progress bar.
Track = Callable[[Iterable[Any], str, int], Iterator[Any]]


def untracked(items: Iterable[Any], text: str, total: int) -> Iterator[Any]:
  """The items; nothing is shown."""
  del text, total
  return iter(items)


@dataclasses.dataclass(frozen=True)
class Subject:
  """The argument of every evaluation.

  Attributes:
    model: the network, on its mesh.
    weights: its weights.
    data: the text of the run; `data.validation` has its validation sets by
      domain, `data.vocab` its vocabulary, which is None for made-up rows.
    hf_folder: Hugging Face files that belong to the vocabulary (chat template,
      generation settings), if there are any.
    limit: batches of a validation set to score; 0 for all of them.
    seed: seed of sampling.
    note: is called with a line before each thing that takes long.
    track: shows the progress through batches.
  """

  model: Model
  weights: Weights
  data: Data
  hf_folder: epath.Path | None = None
  limit: int = 0
  seed: int = 0
  note: Callable[[str], None] = lambda _: None
  track: Track = untracked

  @functools.cached_property
  def scores(self) -> dict[str, Score]:
    """The score on each validation set; computed once, when first used."""
    return perplexity.score_sets(
      perplexity.step_of(self.model),
      self.model,
      self.weights,
      self.data.validation,
      limit=self.limit,
      track=self.track,
      note=self.note,
    )
