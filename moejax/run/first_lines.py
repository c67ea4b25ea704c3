"""The lines with which a training run begins: its model, length and place."""

from etils import epath

from moejax.model import pipeline
from moejax.plan import count
from moejax.run import data_progress
from moejax.run.context import Context
from moejax.run.screen import Screen
from moejax.train import lora


def say(context: Context, folder: epath.Path, screen: Screen) -> None:
  """Shows lines on the model, its adapters, its training, and many epochs."""
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
  if isinstance(context.learner, lora.LoraModel):
    screen.line(_adapters(context.learner, counted.total))
  tokens = run.train.batch_size * run.data.sequence_length
  mesh = context.model.mesh
  devices, platform = mesh.devices.size, mesh.devices.flat[0].platform
  screen.line(
    f'Training: {run.train.steps} steps of {tokens} tokens on {devices} '
    f'{platform} device{"s" if devices > 1 else ""} in {run.model.dtype}; it '
    f'is kept in {folder}.'
  )
  if mesh.shape['stage'] > 1:
    rows = run.train.batch_size // run.train.micro_batches
    screen.line(pipeline.line(run.model, mesh.shape, rows))
  data_progress.say_epochs(context.data, run.train.steps, screen.line)


def _adapters(learner: lora.LoraModel, total: int) -> str:
  """A line on the adapters, whose parameters are the trained ones.

  Example:
    Adapters: 12,288 parameters are trained, 1.52% of the model: attention
    4,096, experts 8,192.
  """
  counts = lora.counts(learner)
  trained = sum(counts.values())
  by_group = ', '.join(f'{group} {count:,}' for group, count in counts.items())
  share = f'{trained / total:.2%}'
  return (
    f'Adapters: {trained:,} parameters are trained, {share} of the model: '
    f'{by_group}.'
  )
