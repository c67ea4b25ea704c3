"""FullModel: the model of a workdir before it loses experts, read in pieces.

Its weights stay on the disk: a method reads the layer that it works on, and a
weight is read when the smaller model's is made.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from moejax.compress import methods, prune
from moejax.compress.choice import (
  CHOICES,
  ONE_EXPERT,
  RouterNeeds,
  check_keep,
)
from moejax.compress.layer_weights import PREFIX
from moejax.compress.merge import MergedLayer
from moejax.compress.methods import Method, Selection
from moejax.compress.needs import check_mergeable, router_needs
from moejax.compress.prune import Smaller
from moejax.compress.statistics import normalised
from moejax.core import trees
from moejax.model.config import ModelConfig
from moejax.run import weight_files
from moejax.run.calibration_text import Collected
from moejax.run.trained import Trained

# Paths below PREFIX of the weights that methods read by name.
NAMED = ('routed/', 'router/')


class Leaf:
  """A stored weight that is indexed like an array: by a number, a slice, `...`.

  Args:
    stored: the weight, whose index is a tuple.
    shape: of the weight.
  """

  def __init__(self, stored: Any, shape: tuple[int, ...]):
    self._stored, self._shape = stored, shape

  def __getitem__(self, index: Any) -> np.ndarray:
    if index is Ellipsis:
      index = (slice(None),) * len(self._shape)
    if not isinstance(index, tuple):
      index = (index,)
    return np.asarray(self._stored[index])


class SmallerLeaf:
  """A weight of a smaller model, made layer by layer where it is indexed.

  Indices are those of `Leaf`.

  The last layer that was made stays in memory.

  Args:
    smaller: the model.
    path: of the weight.
    source: the weight of the full model.
  """

  def __init__(self, smaller: Smaller, path: str, source: Any):
    self._smaller, self._path, self._source = smaller, path, source
    self._num, self._layer = -1, np.zeros(0)

  def __getitem__(self, index: Any) -> np.ndarray:
    if not self._path.startswith(PREFIX):
      return self._source[index]
    if index is Ellipsis:
      index = slice(None)
    first, *rest = index if isinstance(index, tuple) else (index,)
    if not isinstance(first, slice):
      return np.asarray(self._of(int(first))[tuple(rest)])
    layers = range(*first.indices(self._smaller.config.num_moe))
    return np.stack([self._of(n)[tuple(rest)] for n in layers])

  def _of(self, n: int) -> np.ndarray:
    if n != self._num:
      self._layer = np.zeros(0)  # frees it before the next is read
      source = np.asarray(self._source[n])
      self._layer = self._smaller.layer(self._path, n, source)
      self._num = n
    return self._layer


class NamedWeights(Mapping[str, np.ndarray]):
  """The weights of a layer by name, each read when it is looked up.

  Args:
    paths: path of each weight, by its name.
    read: path -> the weight.
  """

  def __init__(
    self, paths: Mapping[str, str], read: Callable[[str], np.ndarray]
  ):
    self._paths, self._read = paths, read

  def __getitem__(self, name: str) -> np.ndarray:
    return self._read(self._paths[name])

  def __contains__(self, name: object) -> bool:
    return name in self._paths

  def __iter__(self) -> Iterator[str]:
    return iter(self._paths)

  def __len__(self) -> int:
    return len(self._paths)


@dataclasses.dataclass(frozen=True)
class FullModel:
  """A model that loses experts.

  Attributes:
    config: of the model.
    get: path -> the weight, which is read where it is indexed.
    shapes: the tree of the weights' shapes.
  """

  config: ModelConfig
  get: prune.Get
  shapes: Any

  def layer(self, n: int) -> NamedWeights:
    """Weights of experts and router of layer n of those with experts."""
    paths = {
      path.removeprefix(PREFIX + kind): path
      for path in trees.leaves(self.shapes)
      for kind in NAMED
      if path.startswith(PREFIX + kind)
    }
    return NamedWeights(paths, lambda path: np.asarray(self.get(path)[n]))

  @property
  def layers(self) -> Sequence[NamedWeights]:
    """The same of all layers with experts."""
    return [self.layer(n) for n in range(self.config.num_moe)]

  def needs(
    self, method: Method, keep: int, *, removed: bool = True
  ) -> RouterNeeds:
    """What every layer must keep.

    Args:
      method: removes or merges the other experts.
      keep: experts of each layer, or their average.
      removed: whether weights are removed, after which all groups of a router
        have equally many experts; a mask alone leaves them as they are.

    Raises:
      InputError: no expert of this model can be removed or merged, or so many
        experts cannot be kept.
    """
    if method.merge is not None:
      check_mergeable(self.config)
    needs = router_needs(self.config)
    if method.shared_router:
      needs = ONE_EXPERT
    num = self.config.moe.num_experts
    check_keep(keep, num, needs)
    return needs.for_budget(keep, num, equal=removed)

  def expected(self, method: Method, keep: int) -> ModelConfig:
    """The config that a smaller model will have, before any score is known.

    A method that divides a budget over layers may keep a different number in
    each. Then one layer has the fewest that it may have, and the others all
    their experts: whatever has no place for such a model is found with it.

    Args:
      method: removes or merges the other experts.
      keep: experts of each layer, or their average.

    Raises:
      InputError: as `needs`, or the smaller model is one that cannot be.
    """
    needs, config = self.needs(method, keep), self.config
    if method.shared_router:
      return config
    score_NE = np.ones((config.num_moe, config.moe.num_experts))
    # No expert of the first layer stays but those that it needs.
    score_NE[0, 1:] = 1e-9
    score_NE[0, 0] = 1
    kept_NE = CHOICES[method.choice](normalised(score_NE), keep, needs)
    if len({*kept_NE.sum(axis=1)}) > 1:
      kept_NE[1:] = True
    return prune.pruned(config, kept_NE).config

  def select(
    self,
    method: Method,
    keep: int,
    collected: Collected,
    seed: int,
    *,
    removed: bool = True,
  ) -> Selection:
    """The experts that a method keeps; see `methods.select` and `needs`."""
    return methods.select(
      method,
      keep,
      collected.statistics,
      self.layers,
      collected.domain_weights,
      needs=self.needs(method, keep, removed=removed),
      seed=seed,
    )

  def smaller(
    self,
    method: Method,
    selection: Selection,
    track: Callable[..., Iterator[int]] = lambda items, *_: iter(items),
  ) -> tuple[Smaller, list[MergedLayer]]:
    """The model without the other experts, and the layers if they are merged.

    Args:
      method: removes or merges the other experts.
      selection: of `select`.
      track: shows the progress through layers; see `evals.subject.Track`.

    Raises:
      InputError: the experts are unlike, or the router cannot work with those
        that are left.
    """
    if method.merge is None:
      return prune.pruned(self.config, selection.kept_NE), []
    num = self.config.num_moe
    merged = [
      # Alignment reads each weight several times.
      methods.merged(method, selection, dict(self.layer(n)), n)
      for n in track(range(num), 'Merging layers', num)
    ]
    router = 'shared' if method.shared_router else 'cut'
    return prune.merged(self.config, merged, router), merged


@contextlib.contextmanager
def opened(
  trained: Trained, step: str, note: Callable[[str], None]
) -> Iterator[tuple[FullModel, int]]:
  """The model of a workdir's checkpoint and its step, while its files are open.

  Args:
    trained: the model of a run, or an imported one.
    step: which checkpoint, see `restore.weights`.
    note: is called with a line for each checkpoint that had to be skipped.

  Raises:
    InputError: the checkpoint does not exist, or is of another model.
  """
  config = trained.model.config
  shapes = trained.model.shapes
  leaves = trees.leaves(shapes)
  with weight_files.opened(trained.workdir, shapes, step, note) as (read, at):

    def get(path: str) -> Leaf:
      return Leaf(read(path), leaves[path].shape)

    yield FullModel(config, get, shapes), at
