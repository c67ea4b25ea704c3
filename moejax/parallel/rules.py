"""RULES: from the name of a weight's dimension to the mesh axes that split it.

Every weight names its dimensions where it is made:
`nnx.Param(x, axes=('embed', 'mlp'), decays=True)`. These names and RULES alone
decide its sharding.
"""

from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from moejax.core import errors, table, trees
from moejax.parallel import inside
from moejax.parallel import mesh as meshes

# The dimension of experts: split over the axis of experts alone, or over `fsdp`
# too, so that each device keeps whole experts.
EXPERT, WHOLE_EXPERT = 'expert', 'whole_expert'
EXPERTS = (EXPERT, WHOLE_EXPERT)

RULES: dict[str, str | tuple[str, ...] | None] = {
  # Rows of the batch, or pieces of rows, one after the other.
  'batch': (*meshes.BATCH_AXES, meshes.STAGE),
  # Whole rows, and their length.
  'rows': (*meshes.ROW_AXES, meshes.STAGE),
  'length': 'context',
  # The tokens of a row between layers.
  'between_layers': 'model',
  'vocab': None,
  'embed': 'fsdp',
  # The latent dimension of matrices between a latent vector and heads.
  'rank': 'fsdp',
  'heads': 'model',
  'head_dim': None,
  'mlp': 'model',
  EXPERT: 'expert',
  WHOLE_EXPERT: ('expert', 'fsdp'),
  'layers': None,
  # The layers of a pipeline.
  'stages': meshes.STAGE,
  'unsharded': None,
}


def spec(axes: tuple[str, ...]) -> PartitionSpec:
  """The partition of an array whose dimensions have these names.

  Raises:
    InputError: a name that is not in RULES.
  """
  for name in axes:
    if name not in RULES:
      raise table.unknown('axis name', name, RULES)
  return PartitionSpec(*(RULES[name] for name in axes))


def sharding(axes: tuple[str, ...], mesh: jax.sharding.Mesh) -> NamedSharding:
  """The sharding of an array whose dimensions have these names."""
  return NamedSharding(mesh, spec(axes))


def shardings(axes_tree: Any, shapes: Any, mesh: jax.sharding.Mesh) -> Any:
  """The sharding of every weight in a tree, checked.

  Args:
    axes_tree: the dimension names of each weight, by the weight's path.
    shapes: the tree of weights or of their shapes.
    mesh: the devices.

  Raises:
    ValueError: a weight does not have one name for each dimension.
    InputError: a dimension does not divide over the devices; the message names
      weight, dimension and sizes.
  """

  def one(path: str, leaf: Any) -> NamedSharding:
    axes = axes_tree.get(path)
    if axes is None or len(axes) != len(leaf.shape):
      raise ValueError(
        f'{path} of shape {leaf.shape} names its dimensions {axes}; '
        'give nnx.Param(..., axes=(...)) one name for each'
      )
    for name, size in zip(axes, leaf.shape, strict=True):
      shards = _num_shards(name, mesh)
      if size % shards:
        raise errors.InputError(
          f'{path}: {name}={size} does not split {shards} ways'
        )
    return sharding(axes, mesh)

  return trees.map_paths(one, shapes)


def _num_shards(name: str, mesh: jax.sharding.Mesh) -> int:
  """The number of shards of a dimension of this name."""
  rule = spec((name,))[0] or ()
  names = (rule,) if isinstance(rule, str) else rule
  size = 1
  for axis in names:
    size *= mesh.shape[axis]
  return size


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
  """The sharding of an array of which every device has a copy."""
  return NamedSharding(mesh, PartitionSpec())


def constrain(
  x: jax.Array, axes: tuple[str, ...], mesh: jax.sharding.Mesh
) -> jax.Array:
  """`x`, with its sharding fixed by the names of its dimensions.

  For arrays in the middle of a jitted program. Inside of a `shard_map` over
  some axes it is about the others.
  """
  if mesh.size == 1:
    return x
  return jax.lax.with_sharding_constraint(x, inside.sharding(mesh, spec(axes)))
