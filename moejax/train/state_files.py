"""Writing a pytree of arrays to a folder and reading it, by Orbax.

On disk a state is a nested dictionary, whose keys are the names in a leaf's
path ('params/embed/w'). The containers of the pytree are not recorded, so any
pytree with the same paths can be restored, on any mesh.
"""

import contextlib
import functools
import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from moejax.core import errors, trees
from moejax.train import orbax_noise

# Size of a file. Orbax holds some twelve whole files in memory while it writes.
FILE_BYTES = 64 * 2**20
# A leaf of at least so many bytes for each index of its first axis is taken for
# a stack of layers.
LAYER_BYTES = 16 * 2**20


class StateFiles:
  """Writes one state at a time in the background, and reads states.

  Args:
    own: whether every process writes the shards of its devices into a folder of
      its own. If not, all processes write one folder together.
  """

  def __init__(self, own: bool = False):
    self._quiet = orbax_noise.Quiet()
    self._quiet.start()
    self._failed = False
    self._make = _make_own_orbax if own else _make_orbax
    self._orbax = self._make()

  def begin_write(self, folder: epath.Path, state: Any) -> None:
    """Copies the state from the devices; a thread then writes it.

    On return the caller may donate or overwrite the buffers. (Where host and
    device share memory, JAX keeps the buffers until they are written, and gives
    a step that donates them new ones.)
    """
    tree = trees.nest(_with_elements(leaves_by_name(state)))
    with jax.transfer_guard('allow'), self._new_orbax_on_error():
      self._orbax.save(
        folder,
        args=ocp.args.PyTreeSave(
          tree,
          save_args=jax.tree.map(_cut, tree),
          ocdbt_target_data_file_size=FILE_BYTES,
        ),
      )

  def wait(self) -> None:
    """Waits until the folder is complete; raises the error of the write."""
    with self._new_orbax_on_error():
      self._orbax.wait_until_finished()

  def read(
    self, folder: epath.Path, abstract: Any, stored_as: Mapping[str, str]
  ) -> Any:
    """Reads the leaves of `abstract`.

    Args:
      folder: a folder that `begin_write` has written.
      abstract: shape, type and sharding of each leaf, which the caller has
        checked by `check_fits`.
      stored_as: path of each leaf in the folder, by its path today; they differ
        if the leaf was renamed since.

    Returns:
      A pytree of arrays with the structure of `abstract`.
    """
    wanted = {
      stored_as[path]: leaf for path, leaf in leaves_by_name(abstract).items()
    }
    tree = trees.nest({
      n: _target(x) for n, x in _with_elements(wanted).items()
    })
    with jax.transfer_guard('allow'):
      restored = self._orbax.restore(
        folder,
        args=ocp.args.PyTreeRestore(
          item=tree,
          restore_args=ocp.checkpoint_utils.construct_restore_args(tree),
          partial_restore=True,
        ),
      )
      by_path = trees.leaves(restored)
      leaves = [
        by_path[n] if n in by_path else _without_elements(x)
        for n, x in wanted.items()
      ]
    return jax.tree.unflatten(jax.tree.structure(abstract), leaves)

  def close(self) -> None:
    """Waits for the last write, and ends the threads."""
    try:
      self._orbax.close()
    finally:
      if not self._failed:
        self._quiet.stop()

  @contextlib.contextmanager
  def _new_orbax_on_error(self) -> Iterator[None]:
    # After an error the same Orbax object would raise further errors of the
    # same save in later calls.
    try:
      yield
    except BaseException:
      self._failed = True
      self._orbax = self._make()
      raise


def _make_orbax() -> ocp.AsyncCheckpointer:
  # Without compression: weights hardly compress, and zstd costs time.
  return ocp.AsyncCheckpointer(
    ocp.PyTreeCheckpointHandler(use_compression=False)
  )


def _make_own_orbax() -> ocp.AsyncCheckpointer:
  """A checkpointer of this process's shards, as in Orbax's replicator."""
  options = ocp.options.MultiprocessingOptions(
    primary_host=None,  # each process is the primary one in its folder
    active_processes={jax.process_index()},  # and waits for no other process
    barrier_sync_key_prefix='own',
  )
  handler = ocp.type_handlers.ArrayHandler(
    primary_host=None, replica_id=None, use_replica_parallel=False
  )
  return ocp.AsyncCheckpointer(
    ocp.PyTreeCheckpointHandler(
      use_compression=False,
      multiprocessing_options=options,
      type_handler_registry=ocp.type_handlers.create_type_handler_registry((
        jax.Array,
        handler,
      )),
    ),
    multiprocessing_options=options,
  )


def held(tree: Any) -> str:
  """A checksum of the index ranges of all shards that this process holds.

  It is the same for every process that holds whole leaves, so that a checkpoint
  that one process has written alone can be read on any mesh of one process.
  """
  ranges = {}
  for name, leaf in leaves_by_name(tree).items():
    sharding = getattr(leaf, 'sharding', None)
    own = sharding and _own_shards(sharding, tuple(leaf.shape))
    if own:
      ranges[name] = own
  return hashlib.sha256(json.dumps(ranges).encode()).hexdigest()[:16]


@functools.lru_cache(maxsize=1024)
def _own_shards(
  sharding: jax.sharding.Sharding, shape: tuple[int, ...]
) -> list[tuple[tuple[int, int], ...]] | None:
  """Start and stop along each axis of this process's shards; None if all."""
  bounds = {
    device: tuple(s.indices(n)[:2] for s, n in zip(index, shape, strict=True))
    for device, index in sharding.devices_indices_map(shape).items()
  }
  own = {bounds[device] for device in sharding.addressable_devices}
  return None if own == {*bounds.values()} else sorted(own)


def leaves_by_name(tree: Any) -> dict[str, Any]:
  """Every leaf by its path; leaves are arrays or shapes of arrays.

  Raises:
    TypeError: two leaves have one name, or a leaf is not a plain array.
  """
  leaves = trees.leaves(tree)
  if len(leaves) != len(jax.tree.leaves(tree)):
    raise TypeError('two leaves of the state have the same path')
  for name, leaf in leaves.items():
    if not hasattr(leaf, 'dtype'):
      raise TypeError(f'{name} is no array but {type(leaf).__name__}')
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      raise TypeError(f'{name} is a PRNG key; save jax.random.key_data of it')
  return leaves


def describe(tree: Any) -> dict[str, str]:
  """Type and shape of every leaf: {'params/w': 'bfloat16[2,3]'}."""
  return {
    name: f'{x.dtype}[{",".join(map(str, x.shape))}]'
    for name, x in leaves_by_name(tree).items()
  }


def difference(
  saved: dict[str, str], wanted: dict[str, str], partial: bool
) -> str | None:
  """The first difference of two descriptions, and the number of others.

  Example:
    params/w is float32[2,3] in it and float32[2,4] here (and 3 more)

  Args:
    saved: leaves of a checkpoint, from `describe`.
    wanted: leaves of this run, from `describe`.
    partial: whether `saved` may have further leaves.
  """
  lines = []
  for name in sorted({*saved, *wanted}):
    if name not in saved:
      lines.append(f'it lacks {name}')
    elif name not in wanted and not partial:
      lines.append(f'{name} is in it and not here')
    elif name in wanted and saved[name] != wanted[name]:
      lines.append(f'{name} is {saved[name]} in it and {wanted[name]} here')
  if not lines:
    return None
  return lines[0] + (f' (and {len(lines) - 1} more)' if lines[1:] else '')


def check_fits(
  folder: epath.Path, saved: dict[str, str], abstract: Any, partial: bool
) -> None:
  """Raises InputError if the saved leaves are not those of `abstract`."""
  if text := difference(saved, describe(abstract), partial):
    raise errors.InputError(
      f'checkpoint {folder} is of another model: {text}; use the config of '
      'that run, or another workdir'
    )


def reason(error: BaseException) -> str:
  """The cause of an error in one line of at most 200 characters.

  TensorStore's errors contain the operating system's error number:
  "... [os_error_code='27']".
  """
  text = str(error).strip()
  if code := re.search(r"os_error_code='?(\d+)", text):
    return os.strerror(int(code[1]))
  if isinstance(error, OSError) and error.strerror:
    return error.strerror
  line = text.splitlines()[0] if text else type(error).__name__
  return line if len(line) <= 200 else line[:197] + '...'


def _with_elements(leaves: dict[str, Any]) -> dict[str, Any]:
  """The leaves with elements; Orbax refuses arrays without any."""
  return {n: x for n, x in leaves.items() if math.prod(x.shape)}


def _without_elements(leaf: Any) -> Any:
  """An array without elements, of the leaf's shape and sharding."""
  empty = np.zeros(leaf.shape, leaf.dtype)
  sharding = getattr(leaf, 'sharding', None)
  return empty if sharding is None else jax.device_put(empty, sharding)


def _cut(leaf: jax.Array | np.ndarray) -> ocp.SaveArgs:
  """Makes Orbax cut a stack into layers, before it cuts by size (`stored`)."""
  sharding = getattr(leaf, 'sharding', None)
  shape = leaf.shape if sharding is None else sharding.shard_shape(leaf.shape)
  size = math.prod(shape[1:]) * leaf.dtype.itemsize
  return ocp.SaveArgs(shard_axes=(0,) if size >= LAYER_BYTES else ())


def _target(leaf: Any) -> jax.ShapeDtypeStruct | np.ndarray:
  """Tells Orbax to restore a leaf as a jax.Array, or as a numpy array."""
  sharding = getattr(leaf, 'sharding', None)
  if sharding is None:
    return np.empty(leaf.shape, leaf.dtype)
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
