"""Jsonl: metrics.jsonl, a line of JSON for each step."""

import dataclasses

from moejax.core import log
from moejax.train.loggers.base import Logger, Place


@dataclasses.dataclass(frozen=True)
class Jsonl(Logger):
  """metrics.jsonl in the workdir, which pages and sweeps read."""

  def open(self, place: Place) -> log.Writer:
    """The writer of the file."""
    return log.JsonlWriter(place.folder / log.METRICS)
