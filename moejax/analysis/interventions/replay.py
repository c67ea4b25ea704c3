"""Another model's routing in place of the model's own."""

from typing import ClassVar

from moejax.analysis.interventions import base
from moejax.core import errors
from moejax.model.config import ModelConfig
from moejax.moe import contract


class Replay(base.Intervention):
  """Each token is computed by the experts that another model chose for it.

  The other model, of a checkpoint of the same run or of another run, reads the
  same batch. Its experts take the place of the model's own, layer by layer, and
  the model weighs them by its own router. `replay_gates` takes the weights from
  the other model as well.

  A value is a checkpoint of the run (a step, or `best`), another workdir, or
  another workdir's checkpoint, WORKDIR@STEP.

  Attributes:
    gates: whether the other model weighs the experts as well.
  """

  summary = "another model's choice of experts, weighed by the model's router"
  value = 'a step, a workdir, or WORKDIR@STEP'
  gates: ClassVar[bool] = False

  def fits(self, router: type[contract.Router]) -> bool:
    return self.gates or router.replays

  def __call__(
    self, config: ModelConfig, value: str, layers: base.Layers = None
  ) -> ModelConfig:
    del config, value, layers
    raise errors.InputError(
      'the routing is that of another model, which no config holds; it can be '
      'evaluated by moejax intervene alone'
    )


class ReplayGates(Replay):
  """As `Replay`, with the weights that the other model gives to its experts."""

  summary = "another model's choice of experts and their weights"
  gates = True
