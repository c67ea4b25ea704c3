"""Tags: the names of metrics in programs that group by what stands before `/`.

The groups:
  train         loss, accuracy, learning rate, norm of the gradient, ...
  eval, evals   validation losses; scores of benchmarks
  balance       balance losses
  moe           statistics of all layers with experts
  moe_layers    the same of the median layer and of the worst one
  vision_...    the same of the experts of an encoder and of a projector
  skips         steps that were not taken
  data          tokens read from each text
  time          speed
  goodput       seconds by activity
"""

from collections.abc import Mapping
from typing import Any

from moejax.core import log

# Metrics about steps that were not taken.
SKIPS = ('bad_steps', 'skipped', 'spike_limit', 'spikes_in_a_row')
LAYERS = ('_median_layer', '_worst_layer')
GOODPUT = 'time/goodput/'
VISION = 'vision/'


def tag(name: str) -> str:
  """The name under which a metric is shown; two metrics never share one.

  Example:
    loss                               train/loss
    moe/entropy                        moe/entropy
    moe/entropy_worst_layer            moe_layers/entropy_worst_layer
    vision/encoder/load_median_layer   vision_encoder_layers/load_median_layer
    time/goodput/step_s                goodput/step_s
  """
  if name.startswith(GOODPUT):
    return f'goodput/{name.removeprefix(GOODPUT)}'
  if name.startswith(VISION):
    name = name.replace('/', '_', 1)
  group, slash, rest = name.partition('/')
  if not slash:
    return f'skips/{name}' if name in SKIPS else f'train/{name}'
  if rest.endswith(LAYERS) and group.startswith(('moe', 'vision_')):
    return f'{group}_layers/{rest}'
  return name


class Tagged:
  """A writer that is given the same values under their tags."""

  def __init__(self, writer: log.Writer):
    self._writer = writer

  def write(self, step: int, values: Mapping[str, Any]) -> None:
    """Writes the values of a step."""
    self._writer.write(step, {tag(name): v for name, v in values.items()})

  def truncate_after(self, step: int) -> None:
    """Removes the values of later steps."""
    self._writer.truncate_after(step)

  def close(self) -> None:
    """Closes the writer."""
    self._writer.close()
