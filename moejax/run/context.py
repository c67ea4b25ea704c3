"""What a run consists of besides its state."""

import dataclasses

import optax

from moejax.config import Run
from moejax.data.build import Data
from moejax.model.build import Model
from moejax.run.processes import ALONE, Processes


@dataclasses.dataclass(frozen=True)
class Parts:
  """Made once in `run.py`, given to whoever needs it."""

  run: Run
  model: Model
  transform: optax.GradientTransformation
  data: Data
  processes: Processes = ALONE
