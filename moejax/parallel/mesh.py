"""The mesh of devices, made from the sizes of its axes."""

import collections
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils

from moejax.core import errors, fields, table

# What each axis does:
#   data    splits the rows of the batch; weights are copied
#   stage   splits the layers into stages of a pipeline (`pipeline.py`); outside
#           of the pipeline it splits the rows of the batch
#   fsdp    splits the rows of the batch; weights are split, gathered for use
#   expert  splits the rows of the batch; experts are split, and tokens are sent
#           to the devices of their experts
#   context splits the length of the rows; weights are copied (`context.py`)
#   model   splits heads and hidden widths of a layer; rows are copied
AXES = ('data', 'stage', 'fsdp', 'expert', 'context', 'model')
STAGE = 'stage'

# The axes that split the rows of the batch in all layers.
ROW_AXES = ('data', 'fsdp', 'expert')
# The axes that split the tokens of the batch in all layers; losses and counts
# are summed over them.
BATCH_AXES = (*ROW_AXES, 'context')


# By name of a granule, the attribute of a device that is equal for all devices
# with a fast network between them: the chips of a TPU slice (ICI), or the GPUs
# of a host. Between granules there is the data centre's network (DCN). JAX
# numbers slices in `slice_index`; where devices have none, each process may
# serve as a slice.
GRANULES = {'slice': 'slice_index', 'process': 'process_index'}
AUTO = 'auto'


@dataclasses.dataclass(frozen=True)
class MeshConfig(fields.Checked):
  """Number of devices along each axis; -1 means all that the others leave.

  Attributes:
    data, stage, fsdp, expert, context, model: sizes of the axes; see `AXES`.
    across: the axis along which slices are laid out; its communication goes
      over the slow network. `auto` lays them out along the axes in their order,
      as far as the sizes divide.
    granule: 'slice', or 'process' to treat every process as a slice.

  Example: 2 slices of 8 devices, data=2, fsdp=8. With `auto` the slices lie
  along data: each slice has a copy of all weights, and only gradients go
  between slices. With data=1 and fsdp=16 the slices lie along fsdp, and weights
  are gathered from both.
  """

  data: int = fields.number(-1, at_least=-1, at_most=10**6, note='-1: the rest')
  stage: int = fields.number(1, at_least=-1, at_most=10**6, note='-1: the rest')
  fsdp: int = fields.number(1, at_least=-1, at_most=10**6, note='-1: the rest')
  expert: int = fields.number(
    1, at_least=-1, at_most=10**6, note='-1: the rest'
  )
  context: int = fields.number(
    1, at_least=-1, at_most=10**6, note='-1: the rest'
  )
  model: int = fields.number(1, at_least=-1, at_most=10**6, note='-1: the rest')
  across: str = AUTO
  granule: str = 'slice'


def make(
  config: MeshConfig, devices: list[jax.Device] | None = None
) -> jax.sharding.Mesh:
  """A mesh of all devices with the axes of `AXES`.

  Args:
    config: sizes of the axes.
    devices: the devices; None means all of JAX's.

  Raises:
    InputError: the sizes do not multiply to the number of devices, or do not
      divide over the slices.
  """
  devices = jax.devices() if devices is None else devices
  sizes = filled(config, len(devices))
  # Axes are Auto: XLA chooses the sharding of all arrays between the
  # constraints that the model states. By default jax.make_mesh makes explicit
  # axes, and shard_map then refuses arrays whose sharding differs from its
  # in_specs.
  types = (jax.sharding.AxisType.Auto,) * len(AXES)
  shape = tuple(sizes[a] for a in AXES)
  across = slices_along(config, sizes, devices)
  if math.prod(across) > 1:
    grid = _hybrid(config, shape, across, devices)
  elif devices[0].platform == 'tpu':
    # Axes of the mesh follow axes of the torus where possible. Without this
    # flag JAX refuses sizes that cut an axis of the torus, such as a mesh of
    # 2 x 32 on a torus of 4 x 4 x 4.
    grid = mesh_utils.create_device_mesh(
      shape, devices, allow_split_physical_axes=True
    )
  elif devices == jax.devices():
    return jax.make_mesh(shape, AXES, axis_types=types)
  else:
    grid = np.asarray(devices).reshape(shape)
  return jax.sharding.Mesh(grid, AXES, axis_types=types)


def axis_sizes(config: MeshConfig) -> dict[str, int]:
  """The configured size of each axis; -1 stands for the rest."""
  return {axis: getattr(config, axis) for axis in AXES}


def slices_along(
  config: MeshConfig, sizes: dict[str, int], devices: Sequence[Any]
) -> tuple[int, ...]:
  """The number of slices along each of `AXES`.

  Example, 4 slices and data=2, stage=1, fsdp=8, expert=1, context=1, model=2:
    auto  (2, 1, 2, 1, 1, 1)      fsdp  (1, 1, 4, 1, 1, 1)

  Raises:
    InputError: an axis is no multiple of its slices, or slices differ in size.
  """
  number = _number_of_slices(config, devices)
  if config.across not in (AUTO, *AXES):
    raise table.unknown('mesh.across', config.across, (AUTO, *AXES))
  slices = dict.fromkeys(AXES, 1)
  left = number
  for axis in AXES if config.across == AUTO else (config.across,):
    slices[axis] = math.gcd(sizes[axis], left)
    left //= slices[axis]
  if left > 1:
    text = ', '.join(f'{a}={sizes[a]}' for a in AXES)
    axes = 'no axes' if config.across == AUTO else f'not mesh.{config.across}'
    raise errors.InputError(
      f'{len(devices)} devices are in {number} {_plural(config, number)} of '
      f'{len(devices) // number}, and {axes} of the mesh {text} can be cut '
      f'into {number}; make one size (data, say) a multiple of {number}, and '
      'let mesh.across be it'
    )
  return tuple(slices[axis] for axis in AXES)


def _number_of_slices(config: MeshConfig, devices: Sequence[Any]) -> int:
  attribute = table.lookup('mesh.granule', GRANULES, config.granule)
  counts = collections.Counter(getattr(d, attribute, 0) for d in devices)
  if len({*counts.values()}) > 1:
    text = ', '.join(f'{n} in {i}' for i, n in sorted(counts.items()))
    raise errors.InputError(
      f'{config.granule}s have different numbers of devices: {text}; a mesh '
      'needs the same of each'
    )
  return len(counts)


def _plural(config: MeshConfig, number: int) -> str:
  """The word for that number of granules: 'slices', 'process'."""
  word = {'process': 'processe'}.get(config.granule, config.granule)
  return word + 's' if number > 1 else config.granule


def _hybrid(
  config: MeshConfig,
  shape: tuple[int, ...],
  across: tuple[int, ...],
  devices: Sequence[Any],
) -> np.ndarray:
  """Devices of several slices as an array with the axes of `AXES`.

  Args:
    config: the mesh.
    shape: size of each axis.
    across: number of slices along each axis; along an axis the devices of one
      slice follow those of another.
    devices: all devices.
  """
  inside = tuple(n // a for n, a in zip(shape, across, strict=True))
  try:
    return mesh_utils.create_hybrid_device_mesh(
      inside,
      across,
      devices,
      process_is_granule=config.granule == 'process',
      allow_split_physical_axes=True,
    )
  except (ValueError, NotImplementedError, AssertionError) as e:
    why = str(e).splitlines()[0] if str(e) else type(e).__name__
    raise errors.InputError(
      f'mesh {" x ".join(map(str, inside))} does not fit the network of one '
      f'{config.granule} ({why}); choose other sizes'
    ) from None


def manual() -> frozenset[str]:
  """The axes that an enclosing `shard_map` has split by hand already."""
  return frozenset(jax.sharding.get_abstract_mesh().manual_axes)


def token_axes() -> tuple[str, ...]:
  """The axes that split the tokens of the batch at this place in a program."""
  return tuple(a for a in (*BATCH_AXES, STAGE) if a not in manual())


def batch_size(mesh: jax.sharding.Mesh) -> int:
  """The number of shards into which the tokens of a batch are split.

  Inside of a pipeline it is that of the tokens of a stage.
  """
  return math.prod(mesh.shape[a] for a in token_axes())


def row_shards(mesh: jax.sharding.Mesh) -> int:
  """The number of shards into which the rows of a batch are split."""
  return math.prod(mesh.shape[a] for a in (*ROW_AXES, STAGE))


def check_rows(rows: int, mesh: jax.sharding.Mesh, where: str) -> None:
  """Raises InputError unless `rows` rows divide evenly over the mesh."""
  parts, axes = row_shards(mesh), [*ROW_AXES]
  if mesh.shape[STAGE] > 1:
    axes.append(STAGE)
  if rows % parts:
    raise errors.InputError(
      f'{where}={rows} rows do not divide over the {parts} parts of the mesh '
      f'({" x ".join(f"{a}={mesh.shape[a]}" for a in axes)}); '
      f'use a multiple of {parts}'
    )


def filled(config: MeshConfig, num_devices: int) -> dict[str, int]:
  """The sizes of all axes, with -1 replaced by the rest of the devices.

  Raises:
    InputError: the sizes do not multiply to the number of devices.
  """
  sizes = axis_sizes(config)
  text = ', '.join(f'{k}={v}' for k, v in sizes.items())
  rest = [k for k, v in sizes.items() if v == -1]
  if len(rest) > 1 or any(v < 1 and v != -1 for v in sizes.values()):
    raise errors.InputError(
      f'mesh sizes must be positive, and at most one -1 ("the rest"): {text}'
    )
  known = math.prod(v for v in sizes.values() if v != -1)
  if rest and num_devices % known == 0:
    sizes = {**sizes, rest[0]: num_devices // known}
  if math.prod(sizes.values()) != num_devices:
    raise errors.InputError(
      f'mesh {text} does not fit {num_devices} devices; '
      'make the product equal to the number of devices, or set one size to -1'
    )
  return sizes
