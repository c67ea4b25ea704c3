"""Checkpoints in two tiers: in the workdir, and more often on local disks.

The workdir may be far away (`gs://...`) and slow. With train.local_checkpoints
each machine saves the shards of its devices on a fast disk of its own every few
steps: these are the near checkpoints. After a kill the run resumes from the
newer of the two that is whole; on other machines, whose disks are empty, it
resumes from the workdir.

With several processes each has a part of a near checkpoint, so all must agree:

  saving    A save begins when all processes have completed the one before. So
            at any moment there is a step of which every part is complete.
  reading   Each process lists the steps of which it has a part that is whole
            and fits its devices. The newest step that all have is used, or
            the workdir's checkpoint if that is newer.

Parts are written as by the replicator of Orbax's multi-tier checkpointing. That
also copies parts between the slices of a cluster, by a service outside of the
program, which is not used here.
"""

import secrets
from collections.abc import Callable
from typing import Any

from moejax.core import errors
from moejax.parallel.group import SINGLE, Group
from moejax.train.checkpoint import Checkpointer

# In the extra of near checkpoints: a random name of the run's present start.
# Parts of one step belong together only if their names are equal.
LIFE = 'life'


class Tiers:
  """The workdir's checkpoints, and near ones if there are any.

  A failure of the near checkpoints is reported by `warn`; the run goes on
  without them.
  """

  def __init__(
    self,
    durable: Checkpointer,
    near: Checkpointer | None = None,
    warn: Callable[[str], None] = lambda _: None,
    group: Group = SINGLE,
    kept: Checkpointer | None = None,
  ):
    """Stores its arguments; the caller closes the checkpointers.

    Args:
      durable: checkpoints in the workdir, shared by all processes.
      near: checkpoints on a fast disk, of this process alone; all processes
        have them, or none.
      warn: called with a line when near checkpoints fail.
      group: the processes.
      kept: checkpoints in the workdir that are never removed, of weights alone
        (train/run_checkpoints.py); None for a run that keeps none.
    """
    self._durable = durable
    self._kept = kept
    self._near = near
    self._warn = warn
    self._group = group
    self._tiered = near is not None
    self._life = ''  # see LIFE

  def save(self, step: int, state: Any, extra: dict[str, Any]) -> None:
    """Saves in the workdir; raises as `Checkpointer.save`."""
    self._wait_for_kept()
    self._durable.save(step, state, extra)

  def save_near(self, step: int, state: Any, extra: dict[str, Any]) -> None:
    """Saves on the fast disks, if there are any."""
    if not self._tiered:
      return
    self._wait_for_kept()
    self._try(Checkpointer.wait)
    # Processes whose disk has failed must call it too: the others wait.
    self._group.gather('the next checkpoint on the fast disks', step)
    more = {**extra, LIFE: self._this_life()}
    self._try(lambda near: near.save(step, state, more))

  def keep(self, step: int, weights: Any, extra: dict[str, Any]) -> None:
    """Keeps weights in the workdir for ever, unless it has those of the step.

    Raises:
      StoppedError: as `Checkpointer.save`.
    """
    if self._kept is None or self._kept.has(step):
      return
    # One save after the other: processes meet in each, in one order.
    self._durable.wait()
    self._kept.save(step, {'weights': weights}, extra)

  def forget_kept_after(self, step: int) -> None:
    """Removes the kept weights of later steps, when a run starts at `step`.

    The run takes these steps again, and keeps their weights again. -1 removes
    all, for a run that begins anew.
    """
    if self._kept is not None and max(self._kept.steps(), default=-1) > step:
      self._kept.forget_after(step)

  def check(self) -> None:
    """Raises the error of a background save; cheap enough for every step."""
    if self._kept is not None:
      self._kept.check()
    self._try(Checkpointer.check)
    self._durable.check()

  def wait(self) -> None:
    """Waits until the last saves are complete; raises as `check`."""
    self._wait_for_kept()
    self._try(Checkpointer.wait)
    self._durable.wait()

  def best(self) -> tuple[int, float] | None:
    """The workdir's checkpoint with the lowest metric, and the metric."""
    return self._durable.best()

  def is_best(self, step: int, value: float) -> bool:
    """Whether the metric is better than those of the workdir's checkpoints."""
    return self._durable.is_best(step, value)

  def mark_best(self, step: int, value: float) -> None:
    """Stores the metric of one of the workdir's checkpoints."""
    self._durable.mark_best(step, value)

  def restore_latest(self, abstract: Any) -> tuple[Any, dict[str, Any]] | None:
    """State and extra of the newest checkpoint that is whole, or None.

    Args:
      abstract: as in `Checkpointer.restore_latest`.

    Raises:
      InputError: the checkpoints in the workdir are all damaged, and there is
        no near one; or they are of another model.
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
      restored = self._durable.restore_latest(abstract)
    else:
      restored = self._near.restore(near, abstract)
    last = max(near or 0, durable[0] if durable else 0)
    self._try(lambda near: near.forget_after(last))
    return restored

  def _newest_near(self, abstract: Any) -> int | None:
    """The newest step whose parts all processes have on their fast disks."""
    if not self._tiered:
      return None
    own_parts: list[list[int | str]] = []
    try:
      usable = self._near.usable(abstract) if self._near is not None else {}
      for step, extra in usable.items():
        own_parts.append([step, extra.get(LIFE, '')])
    except OSError as e:
      self._warn(f'{e} (the fast disk; the workdir has others)')
    all_parts = self._group.gather('parts on the fast disks', own_parts)
    whole = set.intersection(*({*map(tuple, parts)} for parts in all_parts))
    return max((step for step, _ in whole), default=None)

  def _this_life(self) -> str:
    if not self._life:
      self._life = self._group.broadcast(LIFE, lambda: secrets.token_hex(4))
    return self._life

  def _wait_for_kept(self) -> None:
    """Waits for the last weights that are kept.

    It is done before each save, so that all earlier weights are on disk when a
    run can resume from that save.
    """
    if self._kept is not None:
      self._kept.wait()

  def _try(self, action: Callable[[Checkpointer], None]) -> None:
    """Acts on the near checkpoints; gives them up if that fails."""
    if self._near is None:
      return
    try:
      action(self._near)
    except (errors.StoppedError, OSError) as e:
      self._near = None
      self._warn(f'{e}; going on without train.local_checkpoints')
