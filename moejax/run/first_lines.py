"""The lines with which a training run begins: its model, length and place."""

from etils import epath

from moejax.plan import count
from moejax.run import data_progress
from moejax.run.context import Context
from moejax.run.screen import Screen


def say(context: Context, folder: epath.Path, screen: Screen) -> None:
  """Shows a line on the model, one on its training, and one on many epochs."""
  run = context.run
  counted = count.count(run.model)
  experts = ''
  if run.model.num_moe:
    moe = run.model.moe
    experts = (
      f', {moe.num_experts} routed experts + {moe.num_shared} shared in '
      f'{run.model.num_moe} of {run.model.num_layers} layers'
    )
  screen.line(
    f'Model: {counted.total / 1e6:.1f}M parameters, '
    f'{counted.active / 1e6:.1f}M active per token{experts}.'
  )
  tokens = run.train.batch_size * run.data.sequence_length
  devices = context.model.mesh.devices.size
  platform = context.model.mesh.devices.flat[0].platform
  screen.line(
    f'Training: {run.train.steps} steps of {tokens} tokens on {devices} '
    f'{platform} device{"s" if devices > 1 else ""} in {run.model.dtype}; it '
    f'is kept in {folder}.'
  )
  data_progress.say_epochs(context.data, run.train.steps, screen.line)
