"""What a training run is made of besides its state."""

import dataclasses

import optax

from moejax.config import Run
from moejax.data.build import Data
from moejax.model.build import Model
from moejax.run.processes import ALONE, Processes


@dataclasses.dataclass(frozen=True)
class Context:
  """Made once, in `run/train.py`, and handed to all that need it."""

  run: Run
  model: Model
  transform: optax.GradientTransformation
  data: Data
  processes: Processes = ALONE
