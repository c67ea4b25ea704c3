"""The weights of a workdir's checkpoint, each read where it is indexed.

With adapters (`train.lora`) a weight is the sum of the base and its adapter,
formed layer by layer.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from moejax.core import trees
from moejax.model.adapted import Adapted, Form
from moejax.run import base_weights, restore
from moejax.train import checkpoint, lora

# path -> the weight, indexed by tuples.
Get = Callable[[str], Any]


class Sum:
  """A stack of weights with their adapters; the last layer stays in memory.

  Args:
    stored: the weight, A and B, each with layers in front.
    form: of the weight.
    scale: of A B.
    layers: their number.
  """

  def __init__(
    self, stored: tuple[Any, Any, Any], form: Form, scale: float, layers: int
  ):
    self._stored, self._layers = stored, layers
    self._sum = jax.jit(lambda w, a, b: Adapted(w, a, b, form, scale).array())
    self._number: int | None = None
    self._layer = np.zeros(0)

  def __getitem__(self, index: tuple[int | slice, ...]) -> np.ndarray:
    first, *rest = index
    if not isinstance(first, slice):
      return self._at(int(first))[tuple(rest)]
    stack = [self._at(n) for n in range(*first.indices(self._layers))]
    return np.stack(stack)[(slice(None), *rest)]

  def _at(self, number: int) -> np.ndarray:
    if number != self._number:
      self._layer = np.zeros(0)  # frees it before the next is read
      parts = (stored[(number,)] for stored in self._stored)
      self._layer, self._number = np.asarray(self._sum(*parts)), number
    return self._layer


@contextlib.contextmanager
def opened(
  workdir: str,
  shapes: Any,
  step: str = checkpoint.NEWEST,
  note: Callable[[str], None] = lambda _: None,
) -> Iterator[tuple[Get, int]]:
  """The weights of a checkpoint by path, and its step, while it is open.

  Args:
    workdir: folder of a run.
    shapes: the tree of the weights' shapes.
    step: which checkpoint, see `restore.weights`.
    note: is called with a line for each checkpoint that had to be skipped.

  Raises:
    InputError: the checkpoint does not exist, or is of another model.
  """
  leaves = trees.leaves(shapes)
  config = base_weights.adapters_of(workdir)
  with contextlib.ExitStack() as stack:
    saved = stack.enter_context(restore.checkpoints(workdir, note))
    chosen = saved.find(step)

    def own(path: str, like: Any) -> Any:
      return chosen.folder.open_leaf(chosen.step, f'weights/{path}', like)

    if config is None:
      yield lambda path: own(path, leaves[path]), chosen.step
      return
    base = stack.enter_context(base_weights.opened(workdir))
    forms = lora.forms_of(leaves, config)

    def get(path: str) -> Any:
      like = leaves[path]
      if lora.is_state(path):
        return own(path, like)
      stored = base.open_leaf(base_weights.STEP, f'weights/{path}', like)
      if path not in forms:
        return stored
      form = forms[path]
      a, b = lora.pair(like, form, config.rank)
      pair = own(f'{path}/a', a), own(f'{path}/b', b)
      return Sum((stored, *pair), form, config.scale, like.shape[0])

    yield get, chosen.step
