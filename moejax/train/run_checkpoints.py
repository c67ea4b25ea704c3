"""All checkpoints of a run, to be read: the newest, the best, and kept ones.

  WORKDIR/checkpoints/  whole training states; the newest few and the best
  WORKDIR/kept/         weights alone, of the steps that
                        `train.keep_checkpoints_at` and `_every` name

Both folders have the form of train/checkpoint.py. The weights of a step are
the same in both, so a step that both have is read from the first.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from etils import epath

from moejax.core import errors
from moejax.parallel.group import SINGLE, Group
from moejax.train.checkpoint import BEST, NEWEST, Checkpointer

KEPT = 'kept'  # name of the folder in a workdir


@dataclasses.dataclass(frozen=True)
class Chosen:
  """A checkpoint that a user has named.

  Attributes:
    folder: the checkpoints among which it is; `folder.restore` reads it.
    step: its step.
    extra: the JSON that was stored with it.
  """

  folder: Checkpointer
  step: int
  extra: dict[str, Any]


class RunCheckpoints:
  """The checkpoints of a run, which need not have any yet."""

  def __init__(
    self,
    whole: epath.PathLike,
    kept: epath.PathLike,
    *,
    group: Group = SINGLE,
    warn: Callable[[str], None] = lambda _: None,
  ):
    """Reads nothing yet.

    Args:
      whole: folder of the whole training states.
      kept: folder of the weights that are kept.
      group: the processes that read.
      warn: called with a line for each checkpoint that is skipped as damaged.
    """
    self._where = epath.Path(whole)
    self._whole = Checkpointer(whole, group=group, warn=warn)
    self._kept = Checkpointer(kept, group=group, warn=warn)

  def __enter__(self) -> 'RunCheckpoints':
    return self

  def __exit__(self, *unused: object) -> None:
    self._whole.close()
    self._kept.close()

  def steps(self) -> dict[int, tuple[str, ...]]:
    """The steps of all checkpoints, ascending; they are not verified.

    Returns:
      By step, those of these words that hold for it: 'newest' and 'best', both
      of the whole states, and 'kept'.

    Example, saved at 80 and 90, kept at 0 and 80, the lowest loss at 80:
      {0: ('kept',), 80: ('best', 'kept'), 90: ('newest',)}
    """
    whole, kept = self._whole.steps(), self._kept.steps()
    best = self._whole.best()
    words = {
      NEWEST: whole[-1:],
      BEST: [] if best is None else [best[0]],
      KEPT: kept,
    }
    return {
      step: tuple(word for word, steps in words.items() if step in steps)
      for step in sorted({*whole, *kept})
    }

  def find(self, which: str = NEWEST, key: str = '--step') -> Chosen:
    """The checkpoint that a user names; its arrays are not read.

    Args:
      which: 'newest' (of the states that are whole), 'best' (the state with the
        lowest validation loss), or the step of any checkpoint.
      key: the flag or key that the user set, for errors.

    Raises:
      InputError: there is no such checkpoint, or it is damaged.
    """
    if which == NEWEST:
      latest = self._whole.latest()
      if latest is None:
        raise errors.InputError(
          f'there is no checkpoint in {self._where} yet; train first'
        )
      return Chosen(self._whole, *latest)
    if which == BEST:
      best = self._whole.best()
      if best is None:
        raise errors.InputError(
          f'{key}=best: no checkpoint has a validation loss; {self._known()}'
        )
      return self._chosen(self._whole, best[0])
    if not which.isdecimal():
      raise errors.InputError(
        f'{key}={which!r} is newest, best or the step of a checkpoint; '
        f'{self._known()}'
      )
    step = int(which)
    for folder in (self._whole, self._kept):
      if step in folder.steps():
        return self._chosen(folder, step)
    raise errors.InputError(
      f'{key}={which}: there is no checkpoint {step} in '
      f'{self._where.parent}; there are: {self._listing()}'
    )

  def choose(self, which: str, key: str = '--checkpoints') -> list[int]:
    """The steps that a user names, ascending; they are not verified.

    Args:
      which: 'all', 'last', or steps with commas between them.
      key: the flag that the user set, for errors.

    Raises:
      InputError: there is no checkpoint, or none of a step that is named.
    """
    known = [*self.steps()]
    if not known:
      raise errors.InputError(
        f'there is no checkpoint in {self._where} yet; train first'
      )
    if which == 'all':
      return known
    if which == 'last':
      return known[-1:]
    words = [word.strip() for word in which.split(',')]
    for word in words:
      if not word.isdecimal() or int(word) not in known:
        raise errors.InputError(
          f'{key}={which}: {word!r} is not the step of a checkpoint; give all, '
          f'last, or steps with commas between them; {self._known()}'
        )
    return sorted({int(word) for word in words})

  def _chosen(self, folder: Checkpointer, step: int) -> Chosen:
    return Chosen(folder, step, folder.extra(step))

  def _known(self) -> str:
    return f'the steps in {self._where.parent} are: {self._listing()}'

  def _listing(self) -> str:
    return ', '.join(map(str, self.steps())) or '(none)'
