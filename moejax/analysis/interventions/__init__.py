"""INTERVENTIONS: changes of how a trained model routes, by their names.

  moejax intervene --workdir=runs/tiny --what=mask_top

An intervention makes the config of a trained model into that of a changed model
with the same parameters:

  changed = apply(config, 'mask_top=1/8')
  model = build.build(changed, mesh)

To add one, write a subclass of `base.Intervention` in NAME.py, give it a line
here, and tests/analysis/interventions/test_NAME.py with choices and weights
worked by hand. The command, docs/analysis.md's test and the contract test of
all interventions then know it.
"""

from collections.abc import Sequence

from moejax.analysis.interventions import (
  active,
  base,
  drop_top,
  mask_top,
  no_shared,
  one_expert,
  replay,
  temperature,
  uniform,
)
from moejax.core import errors, table
from moejax.model.config import ModelConfig

INTERVENTIONS: dict[str, base.Intervention] = {
  'mask_top': mask_top.MaskTop(),
  'active': active.Active(),
  'no_shared': no_shared.NoShared(),
  'drop_top': drop_top.DropTop(),
  'swap_top': drop_top.SwapTop(),
  'temperature': temperature.Temperature(),
  'force': one_expert.Force(),
  'forbid': one_expert.Forbid(),
  'uniform': uniform.UniformChoice(),
  'replay': replay.Replay(),
  'replay_gates': replay.ReplayGates(),
}


def lookup(name: str) -> base.Intervention:
  """The intervention of this name.

  Raises:
    InputError: there is none; the message has the nearest.
  """
  return table.lookup('intervention', INTERVENTIONS, name)


def apply(
  config: ModelConfig, text: str, layers: Sequence[int] | None = None
) -> ModelConfig:
  """The config of a model under an intervention, with the same parameters.

  Args:
    config: of the trained model.
    text: name and value, such as 'mask_top=1/8'.
    layers: numbers in the model of the layers to change, from 0; None for all
      layers with experts.

  Raises:
    InputError: no such intervention, a value that does not fit the model, a
      router that it cannot change, or a layer without experts.
  """
  name, equals, value = text.partition('=')
  entry = lookup(name)
  if not equals:
    raise errors.InputError(
      f'{text} needs a value: {name}=VALUE, {entry.value}'
    )
  try:
    entry.check_router(config)
    return entry(config, value, base.places(config, layers))
  except errors.InputError as error:
    raise errors.InputError(f'{text}: {error}') from None
