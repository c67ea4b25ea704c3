"""Context: the objects of a training run that stay the same in all steps."""

import dataclasses
import functools
from collections.abc import Sequence

import optax

from moejax.config import Run
from moejax.data.build import Data
from moejax.evals.prompts import Asked
from moejax.model.build import Model
from moejax.run.processes import ALONE, Processes
from moejax.run.teacher import Source
from moejax.train import lora


@dataclasses.dataclass(frozen=True)
class Context:
  """The config of a training run and the objects made from it.

  `run/train.py` makes it once per process.

  Attributes:
    run: the config.
    model: the network, on its mesh.
    learner: the model whose weights are trained: that with adapters
      (`train.lora`), or `model` itself.
    transform: the optimiser.
    data: rows for training and validation.
    processes: the processes of the run; by default this one alone.
    asked: items of the benchmarks that are asked while training.
    teacher: the model that the run learns from; None without one.
  """

  run: Run
  model: Model
  transform: optax.GradientTransformation
  data: Data
  processes: Processes = ALONE
  asked: Sequence[Asked] = ()
  teacher: Source | None = None

  @functools.cached_property
  def learner(self) -> Model:
    return lora.learner(self.model, self.run.train.lora)
