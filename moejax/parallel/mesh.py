"""Axis sizes to a mesh of devices."""

import dataclasses
import math

import jax
import numpy as np

from moejax.core import errors

# What each axis does:
#   data    rows of the batch; parameters are copied
#   fsdp    rows of the batch; parameters are split and gathered for use
#   expert  rows of the batch; experts are split, and rows travel to them
#   model   heads and hidden widths of one layer; every row is on all of these
AXES = ('data', 'fsdp', 'expert', 'model')

# The batch is split over these; a loss or a count is summed over them.
BATCH_AXES = ('data', 'fsdp', 'expert')


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """Devices along each axis; -1 means the rest."""

  data: int = -1
  fsdp: int = 1
  expert: int = 1
  model: int = 1


def make(
  config: MeshConfig, devices: list[jax.Device] | None = None
) -> jax.sharding.Mesh:
  """A mesh of all devices with the axes of `AXES`.

  Raises:
    InputError: the sizes do not multiply to the number of devices.
  """
  devices = jax.devices() if devices is None else devices
  sizes = _fill(dataclasses.asdict(config), len(devices))
  # Auto, because jax.make_mesh makes explicit axes by default, and shard_map
  # then refuses arrays that lie otherwise than its in_specs. XLA lays out
  # everything between the constraints that the model states.
  types = (jax.sharding.AxisType.Auto,) * len(AXES)
  shape = tuple(sizes[a] for a in AXES)
  if devices == jax.devices():
    return jax.make_mesh(shape, AXES, axis_types=types)
  grid = np.asarray(devices).reshape(shape)
  return jax.sharding.Mesh(grid, AXES, axis_types=types)


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


def _fill(sizes: dict[str, int], num_devices: int) -> dict[str, int]:
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
