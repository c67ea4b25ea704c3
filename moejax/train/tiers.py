"""Checkpoints in two places: the workdir's, and often, a fast disk's.

The workdir may be far away (`gs://...`) and slow; a disk of this machine takes
a checkpoint every few steps. After a kill the run goes on from whichever is
newer and whole; on another machine, where the disk is empty, from the workdir.

Orbax has such tiers as well (its emergency and multi-tier checkpointing): they
copy between the slices of a TPU cluster and need one fast disk for each of
several hosts. This is the simple thing for a run of one process: a second
Checkpointer.
"""

from collections.abc import Callable
from typing import Any

from moejax.core import errors
from moejax.train.checkpoint import Checkpointer


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
  ):
    """Takes both as they are; the caller closes them.

    Args:
      durable: the workdir's.
      near: of a fast disk.
      warn: is given a line when the near ones fail.
    """
    self._durable = durable
    self._near = near
    self._warn = warn

  def save(self, step: int, state: Any, extra: dict[str, Any]) -> None:
    """Saves in the workdir; raises as `Checkpointer.save`."""
    self._durable.save(step, state, extra)

  def save_near(self, step: int, state: Any, extra: dict[str, Any]) -> None:
    """Saves on the fast disk, if there is one."""
    self._try(lambda near: near.save(step, state, extra))

  def check(self) -> None:
    """Raises the error of a save that has failed since; cheap, every step."""
    self._try(Checkpointer.check)
    self._durable.check()

  def wait(self) -> None:
    """Waits until the last saves are complete; raises as `check`."""
    self._try(Checkpointer.wait)
    self._durable.wait()

  def mark_best(self, step: int, value: float) -> None:
    """Notes the metric of one of the workdir's checkpoints."""
    self._durable.mark_best(step, value)

  def restore_latest(self, abstract: Any) -> tuple[Any, dict[str, Any]] | None:
    """State and extra of the newest checkpoint that is whole, or None.

    Raises:
      InputError: there are checkpoints in the workdir, and none can be used;
        or they are another model's.
    """
    near = self._newest_near()
    try:
      durable = self._durable.latest()
    except errors.InputError as e:
      if near is None:
        raise
      self._warn(str(e))
      durable = None
    if near is None or (durable is not None and durable[0] >= near):
      return self._durable.restore_latest(abstract)
    return self._near.restore_latest(abstract)

  def _newest_near(self) -> int | None:
    if self._near is None:
      return None
    try:
      found = self._near.latest()
    except (errors.InputError, OSError) as e:
      self._warn(f'{e} (the fast disk; the workdir has others)')
      return None
    return None if found is None else found[0]

  def _try(self, what: Callable[[Checkpointer], None]) -> None:
    if self._near is None:
      return
    try:
      what(self._near)
    except errors.StoppedError as e:
      self._near = None
      self._warn(f'{e}; going on without train.local_checkpoints')
