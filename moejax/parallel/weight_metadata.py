"""Metadata of weights: the names of their dimensions, and whether they decay.

Every weight states both where it is made: `nnx.Param(x, axes=('embed', 'mlp'),
decays=True)`.
"""

from typing import Any

from flax import nnx

from moejax.core import trees


def axes(state: nnx.State, shapes: Any) -> dict[str, tuple[str, ...]]:
  """Every weight's dimension names; stacked layers have 'layers' in front.

  Args:
    state: the weights of a module, as returned by `nnx.split`.
    shapes: the same as a nested dictionary of shapes.
  """
  flat = trees.leaves(shapes)
  names = {}
  for path, variable in nnx.to_flat_state(state):
    name = '/'.join(map(str, path))
    named = variable.get_metadata().get('axes', ())
    stacked = len(flat[name].shape) - len(named)
    names[name] = ('layers',) * stacked + tuple(named)
  return names


def decays(state: nnx.State) -> dict[str, bool]:
  """Whether weight decay applies to each weight, as stated where it is made.

  It applies to matrices: embeddings, attention, experts, routers. It does not
  apply to weights that are added or multiplied element by element (norms'
  scales, biases, learned temperatures), nor to those without a gradient.

  Raises:
    ValueError: a weight does not state it.
  """
  found = {}
  for path, variable in nnx.to_flat_state(state):
    name = '/'.join(map(str, path))
    weight_decays = variable.get_metadata().get('decays')
    if weight_decays is None:
      raise ValueError(
        f'{name} does not say whether it decays; give nnx.Param(..., '
        'decays=True) to a matrix, decays=False to scales and biases'
      )
    found[name] = weight_decays
  return found
