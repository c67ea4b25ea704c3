"""TensorBoard: scalars in groups, arrays as histograms, and the config."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from moejax.core import log
from moejax.train.loggers import tags
from moejax.train.loggers.base import Logger, Place

FOLDER = 'tensorboard'
# Metrics that TensorBoard shows as the results of hyperparameters.
OUTCOMES = ('eval/loss', 'loss')


@dataclasses.dataclass(frozen=True)
class TensorBoard(Logger):
  """Event files in the folder `tensorboard` of the workdir."""

  def open(self, place: Place) -> log.Writer:
    """The writer of the event files."""
    return tags.Tagged(
      log.TensorBoardWriter(
        place.folder / FOLDER,
        {'config': _markdown(place.flat)},
        place.flat,
        [tags.tag(name) for name in OUTCOMES],
      )
    )


def _markdown(values: Mapping[str, Any]) -> str:
  """The config of a run, a key on each line, as a block of code."""
  return ''.join(f'    {key} = {value}\n' for key, value in values.items())
