"""Checkpoints in two places: the workdir's, and often, a fast disk's.

The workdir may be far away (`gs://...`) and slow; a disk of its own takes what
each machine holds every few steps. After a kill the run goes on from whichever
is newer and whole; on other machines, whose disks are empty, from the workdir.

With several processes each has a part of a checkpoint, so all have to agree:

  saving    begins when all have completed the one before: at any moment there
            is a step of which every part is complete,
  reading   each says of which steps it has a part that is whole and fits its
            devices; the newest that all have is taken, or the workdir's.

Each part is written as Orbax's replicator writes them (its multi-tier
checkpointing, which besides copies parts between the slices of a cluster, by a
service outside of the program; that is not used).
"""

import secrets
from collections.abc import Callable
from typing import Any

from moejax.core import errors
from moejax.parallel.group import SINGLE, Group
from moejax.train.checkpoint import Checkpointer

LIFE = 'life'


class Tiers:
  """The workdir's checkpoints, and perhaps some that are nearer.

  What goes wrong with the near ones is told and ends nothing; without them the
  run goes on.
  """

  def __init__(
    self,
    durable: Checkpointer,
    near: Checkpointer | None = None,
    warn: Callable[[str], None] = lambda _: None,
    group: Group = SINGLE,
  ):
    """Takes both as they are; the caller closes them.

    Args:
      durable: the workdir's, of all processes.
      near: of a fast disk, this process's own; all have one, or none has.
      warn: is given a line when the near ones fail.
      group: the processes.
    """
    self._durable = durable
    self._near = near
    self._warn = warn
    self._group = group
    self._tiered = near is not None
    self._life = ''  # parts of one checkpoint have the same

  def save(self, step: int, state: Any, extra: dict[str, Any]) -> None:
    """Saves in the workdir; raises as `Checkpointer.save`."""
    self._durable.save(step, state, extra)

  def save_near(self, step: int, state: Any, extra: dict[str, Any]) -> None:
    """Saves on the fast disks, if there are any."""
    if not self._tiered:
      return
    self._try(Checkpointer.wait)
    # Also where the disk has failed: the others wait.
    self._group.gather('the next checkpoint on the fast disks', step)
    more = {**extra, LIFE: self._this_life()}
    self._try(lambda near: near.save(step, state, more))

  def check(self) -> None:
    """Raises the error of a save that has failed since; cheap, every step."""
    self._try(Checkpointer.check)
    self._durable.check()

  def wait(self) -> None:
    """Waits until the last saves are complete; raises as `check`."""
    self._try(Checkpointer.wait)
    self._durable.wait()

  def best(self) -> tuple[int, float] | None:
    """The workdir's checkpoint with the lowest metric, and the metric."""
    return self._durable.best()

  def is_best(self, step: int, value: float) -> bool:
    """Whether the metric is better than those of the workdir's checkpoints."""
    return self._durable.is_best(step, value)

  def mark_best(self, step: int, value: float) -> None:
    """Notes the metric of one of the workdir's checkpoints."""
    self._durable.mark_best(step, value)

  def restore_latest(self, abstract: Any) -> tuple[Any, dict[str, Any]] | None:
    """State and extra of the newest checkpoint that is whole, or None.

    Raises:
      InputError: there are checkpoints in the workdir, and none can be used;
        or they are another model's.
    """
    near = self._newest_near(abstract)
    try:
      durable = self._durable.latest()
    except errors.InputError as e:
      if near is None:
        raise
      if not self._group.index:
        self._warn(str(e))
      durable = None
    newer = durable is not None and near is not None and durable[0] >= near
    if self._near is None or near is None or newer:
      found = self._durable.restore_latest(abstract)
    else:
      found = self._near.restore(near, abstract)
    last = max(near or 0, durable[0] if durable else 0)
    self._try(lambda near: near.forget_after(last))
    return found

  def _newest_near(self, abstract: Any) -> int | None:
    """The newest step that all have on their fast disks."""
    if not self._tiered:
      return None
    mine: list[list[int | str]] = []
    try:
      usable = self._near.usable(abstract) if self._near is not None else {}
      for step, extra in usable.items():
        mine.append([step, extra.get(LIFE, '')])
    except OSError as e:
      self._warn(f'{e} (the fast disk; the workdir has others)')
    parts = self._group.gather('parts on the fast disks', mine)
    whole = set.intersection(*({*map(tuple, part)} for part in parts))
    return max((step for step, _ in whole), default=None)

  def _this_life(self) -> str:
    if not self._life:
      self._life = self._group.broadcast(LIFE, lambda: secrets.token_hex(4))
    return self._life

  def _try(self, what: Callable[[Checkpointer], None]) -> None:
    if self._near is None:
      return
    try:
      what(self._near)
    except (errors.StoppedError, OSError) as e:
      self._near = None
      self._warn(f'{e}; going on without train.local_checkpoints')
