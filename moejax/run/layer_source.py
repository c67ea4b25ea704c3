"""LayerSource: the weights of a checkpoint, read one layer at a time.

  with layer_source.of_workdir(workdir, model) as (read, step):
    source = LayerSource(model, read)
    source.embedding()        [V, D]
    source.layer('moe', 3)    the fourth layer with experts, on the devices

A workdir and a Hugging Face folder can be read so. A layer is in memory once,
besides the largest of its weights while that is read.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from moejax.convert import load
from moejax.core import trees
from moejax.model.build import Model, Weights
from moejax.run import weight_files
from moejax.train import checkpoint

# (path of a weight, layer or None for the whole weight) -> the weight.
Read = Callable[[str, int | None], np.ndarray]


@dataclasses.dataclass(frozen=True)
class LayerSource:
  """Weights on disk.

  Attributes:
    model: the network that they are of, on its mesh.
    read: reads a weight, or one layer of a stack.
  """

  model: Model
  read: Read

  def embedding(self) -> jax.Array:
    """embed_VD on the devices."""
    sharding = self.model.shardings['embed_VD']
    return jax.device_put(self.read('embed_VD', None), sharding)

  def layer(self, kind: str, index: int) -> Weights:
    """The weights of one layer on the devices, without the axis of layers.

    Args:
      kind: 'dense' or 'moe'.
      index: number of the layer among those of its kind, from 0.
    """
    shardings = trees.leaves(self.model.shardings[kind])

    def one(path: str, leaf: jax.ShapeDtypeStruct) -> jax.Array:
      del leaf
      whole = shardings[path]
      spec = jax.sharding.PartitionSpec(*whole.spec[1:])
      own = jax.sharding.NamedSharding(whole.mesh, spec)
      weight = self.read(f'{kind}/{path}', index)
      return jax.device_put(weight, own, may_alias=True)

    return trees.map_paths(one, self.model.shapes[kind])


@contextlib.contextmanager
def of_workdir(
  workdir: str,
  model: Model,
  step: str = checkpoint.NEWEST,
  note: Callable[[str], None] = lambda _: None,
) -> Iterator[tuple[Read, int]]:
  """Reads the weights of a workdir; also gives the step of the checkpoint.

  Args:
    workdir: folder of a run.
    model: its network.
    step: which checkpoint, see `restore.weights`.
    note: is called with a line for each checkpoint that had to be skipped.

  Raises:
    InputError: the checkpoint does not exist, or is of another model.
  """
  with weight_files.opened(workdir, model.shapes, step, note) as (get, at):
    # Checksums are read with the first leaf that is opened.
    opened = functools.cache(get)

    def read(path: str, layer: int | None) -> np.ndarray:
      if layer is None:
        return opened(path)[(slice(None),)]
      # A slice is read without a copy of the chunk that would be kept.
      return opened(path)[(slice(layer, layer + 1),)][0]

    yield read, at


def of_folder(plan: load.ImportPlan, model: Model) -> Read:
  """Reads the weights of a Hugging Face folder.

  Args:
    plan: of the folder.
    model: the network of the plan's config.
  """
  shapes = trees.leaves(model.shapes)
  tensors: dict[str, list[Any]] = {}
  for tensor in plan.tensors:
    tensors.setdefault(tensor.path, []).append(tensor)

  def read(path: str, layer: int | None) -> np.ndarray:
    own = tensors.get(path, [])
    return load.read_weight(plan, own, path, shapes[path], layer)

  return read
