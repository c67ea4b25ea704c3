"""The base of a run with adapters (`train.lora`): the weights that stay.

  WORKDIR/base/   the weights with which the run began, written once
  WORKDIR/checkpoints/, WORKDIR/kept/   adapters and router states

So a workdir needs nothing outside of it, a checkpoint is small, and a resumed
run has the very base that it began with. Whoever reads the weights of such a
workdir gets their sums with the adapters (`restore.weights`, `weight_files`).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from etils import epath

from moejax import config as configs
from moejax.core import errors
from moejax.model import build
from moejax.parallel.group import SINGLE, Group
from moejax.train import loop, lora
from moejax.train.checkpoint import Checkpointer
from moejax.train.lora import LoraModel
from moejax.train.state import State

FOLDER = 'base'
STEP = 0  # the base is stored as the checkpoint of step 0

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Base:
  """The base of a run that trains.

  Attributes:
    model: with adapters.
    weights: of the base, never changed.
  """

  model: LoraModel
  weights: build.Weights

  def whole(self, state: State) -> State:
    """The state with the weights of the model without adapters."""
    merged = self.model.merged(self.weights, state.weights)
    return state.replace(weights=merged)  # type: ignore[attr-defined]


def given(step: Callable[..., Any], base: Base | None) -> Callable[..., Any]:
  """The training step without its last argument: the base is given."""
  if base is None:
    return step
  return lambda *rest: step(*rest, base.weights)


def whole(base: Base | None, state: State) -> State:
  """The state as evaluations and reports read it, with whole weights."""
  return state if base is None else base.whole(state)


def seen_by(base: Base | None, hook: loop.Hook) -> loop.Hook:
  """An evaluation that reads the weights of the model without adapters."""
  return lambda at, state: hook(at, whole(base, state))


def keep(
  model: LoraModel, weights: build.Weights, folder: epath.Path, group: Group
) -> Base:
  """Writes the base of a run that begins.

  Args:
    model: with adapters.
    weights: of the base.
    folder: workdir of the run.
    group: the processes of the run.

  Raises:
    StoppedError: the base cannot be saved.
  """
  with Checkpointer(folder / FOLDER, group=group) as saved:
    saved.forget_after(STEP - 1)  # of a run that had no checkpoint yet
    saved.save(STEP, {'weights': weights}, {})
  return Base(model, weights)


def read(
  model: LoraModel, workdir: epath.PathLike, group: Group = SINGLE
) -> Base:
  """Reads the base of a workdir.

  Raises:
    InputError: it is missing, damaged or of another model.
  """
  with opened(workdir, group) as saved:
    abstract = {'weights': build.abstract(model.base)}
    state, _ = saved.restore(STEP, abstract)
  return Base(model, state['weights'])


def opened(workdir: epath.PathLike, group: Group = SINGLE) -> Checkpointer:
  """The folder of the base, whose leaves `open_leaf` reads at STEP.

  Raises:
    InputError: there is none.
  """
  place = epath.Path(workdir) / FOLDER
  if not place.exists():
    raise errors.InputError(
      f'{place} is missing: it has the weights to which the adapters of the '
      'run (train.lora) are added; put it back'
    )
  return Checkpointer(place, group=group)


def adapters_of(workdir: epath.PathLike) -> lora.Lora | None:
  """The adapters of a workdir; None if its checkpoints have whole weights.

  A workdir that was made of another one's weights has that one's config, but no
  base.
  """
  config = configs.of_workdir(str(workdir)).train.lora
  begun = epath.Path(workdir) / FOLDER
  return config if config.rank and begun.exists() else None


def fresh_key(seed: int) -> jax.Array:
  """The random key of the adapters of a run."""
  return jax.random.fold_in(jax.random.key(seed), 1)
