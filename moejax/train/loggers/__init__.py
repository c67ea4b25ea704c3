"""LOGGERS: where the metrics of a run are written, by name.

To add one, write a frozen dataclass that derives from `base.Logger`, whose
fields are its config keys, and add a line to LOGGERS. One that sends metrics to
another program derives from `base.Outside` and makes a `service.Service`.
"""

from collections.abc import Mapping, Sequence

import jax

from moejax.core import log
from moejax.train.loggers.base import Logger, Place
from moejax.train.loggers.jsonl import Jsonl
from moejax.train.loggers.mlflow_runs import Mlflow
from moejax.train.loggers.tensorboard import TensorBoard
from moejax.train.loggers.weights_and_biases import WeightsAndBiases

# In this order: a line is in metrics.jsonl before another logger has it.
LOGGERS: Mapping[str, type[Logger]] = {
  'jsonl': Jsonl,
  'tensorboard': TensorBoard,
  'wandb': WeightsAndBiases,
  'mlflow': Mlflow,
}
DEFAULT = (Jsonl(), TensorBoard())


def check(loggers: Sequence[Logger], place: Place) -> None:
  """Raises InputError for a logger that cannot write in a workdir.

  Args:
    loggers: those of the config.
    place: the run.
  """
  for logger in loggers:
    logger.check(place)


def open_writers(
  loggers: Sequence[Logger], place: Place, process_index: int | None = None
) -> log.MultiWriter:
  """The writers of the loggers in process 0, none in others.

  Args:
    loggers: those of the config.
    place: the run.
    process_index: index of this process; None asks JAX.
  """
  if process_index is None:
    process_index = jax.process_index()
  if process_index != 0:
    return log.MultiWriter([])
  return log.MultiWriter([logger.open(place) for logger in loggers])
