"""Axis sizes to a mesh of devices."""

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
#   data    rows of the batch; parameters are copied
#   fsdp    rows of the batch; parameters are split and gathered for use
#   expert  rows of the batch; experts are split, and rows travel to them
#   model   heads and hidden widths of one layer; every row is on all of these
AXES = ('data', 'fsdp', 'expert', 'model')

# The batch is split over these; a loss or a count is summed over them.
BATCH_AXES = ('data', 'fsdp', 'expert')


# What devices that are close to each other have in common: a TPU slice has its
# own fast network (ICI), and so have the GPUs of a host; between them there is
# the data centre's (DCN). JAX numbers both in `slice_index`. A process is that
# where JAX sees no slices.
GRANULES = {'slice': 'slice_index', 'process': 'process_index'}
AUTO = 'auto'


@dataclasses.dataclass(frozen=True)
class MeshConfig(fields.Checked):
  """Devices along each axis, in all; -1 means the rest.

  Attributes:
    data: see `AXES` for these four.
    fsdp: ...
    expert: ...
    model: ...
    across: the axis that the slices lie along: what it moves goes over the slow
      network. `auto` takes the axes in their order, as far as they divide.
    granule: 'slice', or 'process' to treat every process as one.

  Example: 2 slices of 8 devices, data=2, fsdp=8. By `auto` the slices lie along
  data: each has a whole copy, and gradients alone go between them. With data=1
  and fsdp=16 they lie along fsdp, and weights are gathered from both.
  """

  data: int = fields.number(-1, at_least=-1, at_most=10**6, note='-1: the rest')
  fsdp: int = fields.number(1, at_least=-1, at_most=10**6, note='-1: the rest')
  expert: int = fields.number(
    1, at_least=-1, at_most=10**6, note='-1: the rest'
  )
  model: int = fields.number(1, at_least=-1, at_most=10**6, note='-1: the rest')
  across: str = AUTO
  granule: str = 'slice'


def make(
  config: MeshConfig, devices: list[jax.Device] | None = None
) -> jax.sharding.Mesh:
  """A mesh of all devices with the axes of `AXES`.

  Raises:
    InputError: the sizes do not multiply to the number of devices, or do not
      divide over the slices.
  """
  devices = jax.devices() if devices is None else devices
  sizes = filled(config, len(devices))
  # Auto, because jax.make_mesh makes explicit axes by default, and shard_map
  # then refuses arrays that lie otherwise than its in_specs. XLA lays out
  # everything between the constraints that the model states.
  types = (jax.sharding.AxisType.Auto,) * len(AXES)
  shape = tuple(sizes[a] for a in AXES)
  across = slices_along(config, sizes, devices)
  if math.prod(across) > 1:
    grid = _hybrid(config, shape, across, devices)
  elif devices[0].platform == 'tpu':
    # Axes lie along the torus's as far as they go. By itself JAX refuses sizes
    # that cut one of those in two: 2 x 32 chips of 4 x 4 x 4, say.
    grid = mesh_utils.create_device_mesh(
      shape, devices, allow_split_physical_axes=True
    )
  elif devices == jax.devices():
    return jax.make_mesh(shape, AXES, axis_types=types)
  else:
    grid = np.asarray(devices).reshape(shape)
  return jax.sharding.Mesh(grid, AXES, axis_types=types)


def axis_sizes(config: MeshConfig) -> dict[str, int]:
  """The sizes that are asked for, -1 where it is the rest."""
  return {axis: getattr(config, axis) for axis in AXES}


def slices_along(
  config: MeshConfig, sizes: dict[str, int], devices: Sequence[Any]
) -> tuple[int, ...]:
  """How many slices lie along each of `AXES`.

  Example, 4 slices and data=2, fsdp=8, expert=1, model=2:
    auto  (2, 2, 1, 1)      fsdp  (1, 4, 1, 1)

  Raises:
    InputError: the axis is no multiple of that, or slices have other sizes.
  """
  number = _number_of_slices(config, devices)
  if config.across not in (AUTO, *AXES):
    raise table.unknown('mesh.across', config.across, (AUTO, *AXES))
  found = dict.fromkeys(AXES, 1)
  left = number
  for axis in AXES if config.across == AUTO else (config.across,):
    found[axis] = math.gcd(sizes[axis], left)
    left //= found[axis]
  if left > 1:
    text = ', '.join(f'{a}={sizes[a]}' for a in AXES)
    where = 'no axes' if config.across == AUTO else f'not mesh.{config.across}'
    raise errors.InputError(
      f'{len(devices)} devices are in {number} {_plural(config, number)} of '
      f'{len(devices) // number}, and {where} of the mesh {text} can be cut '
      f'into {number}; make one size (data, say) a multiple of {number}, and '
      'let mesh.across be it'
    )
  return tuple(found[axis] for axis in AXES)


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
  word = {'process': 'processe'}.get(config.granule, config.granule)
  return word + 's' if number > 1 else config.granule


def _hybrid(
  config: MeshConfig,
  shape: tuple[int, ...],
  across: tuple[int, ...],
  devices: Sequence[Any],
) -> np.ndarray:
  """Devices [data, fsdp, expert, model]; along an axis, slice after slice."""
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


def batch_size(mesh: jax.sharding.Mesh) -> int:
  """Into how many parts the rows of a batch are split."""
  return math.prod(mesh.shape[a] for a in BATCH_AXES)


def check_rows(rows: int, mesh: jax.sharding.Mesh, where: str) -> None:
  """Raises InputError unless `rows` rows divide evenly over the mesh."""
  parts = batch_size(mesh)
  if rows % parts:
    raise errors.InputError(
      f'{where}={rows} rows do not divide over the {parts} parts of the mesh '
      f'({" x ".join(f"{a}={mesh.shape[a]}" for a in BATCH_AXES)}); '
      f'use a multiple of {parts}'
    )


def filled(config: MeshConfig, num_devices: int) -> dict[str, int]:
  """The sizes of all axes, the rest in place of -1.

  Raises:
    InputError: they do not multiply to the number of devices.
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
