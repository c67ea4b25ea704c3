"""Checkpoints that are whole or absent; the last good one is never lost.

A checkpoint is a folder named by its step:

  00000100/
    state/          every leaf of the state, written by Orbax
    meta.json       the step, the leaves by name, and what the caller adds
    manifest.json   size and checksum of every file above

Stages of a save:
  1. Take the state off the devices; the caller may then overwrite its buffers.
     The following stages run in the background.
  2. Orbax writes `00000100.part/state`, with a rename of its own.
  3. Write meta.json, then manifest.json, then read all files and compare them
     with the manifest.
  4. Rename `00000100.part` to `00000100`.
  5. Only now remove older checkpoints that need not be kept.

So a numbered folder was complete when it got its name. A kill at any moment
leaves at most a `.part`, which the next save removes. Damage that a disk does
later is found by the manifest on reading; then the checkpoint before is used.

With several processes all of them must see the folder, and all call `save`,
`latest` and `restore`. Each makes its share of the checksums; process 0 alone
writes, renames and removes. With `own` each process instead has a local folder
of its own, with the shards that its devices hold (see train/tiers.py).
"""

import concurrent.futures
import contextlib
import json
from collections.abc import Callable
from typing import Any

import jax
from etils import epath

from moejax.core import errors
from moejax.parallel.group import SINGLE, Group
from moejax.train import checkpoint_folder, old_paths, state_files, stored

# Names of a checkpoint: see `run_checkpoints.RunCheckpoints.find`.
NEWEST, BEST = 'newest', 'best'
STATE = 'state'
METRIC = 'metric'
HELD = 'held'  # in meta.json, if `own`: see `state_files.held`
SAVE_ERRORS = (OSError, ValueError, RuntimeError)  # of disks and TensorStore


class Checkpointer:
  """Saves and restores the checkpoints of one run.

  Example:
    with Checkpointer('runs/x/checkpoints', warn=print) as checkpointer:
      restored = checkpointer.restore_latest(abstract_state)
      state, extra = restored or (init(), {'next_step': 0})
      for step in range(extra['next_step'], 100):
        state = train_step(state)
        checkpointer.check()
        if step % 10 == 9:
          checkpointer.save(step + 1, state, {'next_step': step + 1})
  """

  def __init__(
    self,
    folder: epath.PathLike,
    *,
    keep: int | None = 3,
    keep_best: bool = True,
    asynchronous: bool = True,
    own: bool = False,
    group: Group = SINGLE,
    warn: Callable[[str], None] = lambda _: None,
  ):
    """Reads and writes nothing yet.

    Args:
      folder: folder of the checkpoints; the first save makes it.
      keep: number of the newest checkpoints that are kept; None keeps all.
      keep_best: whether the checkpoint with the lowest metric is kept as well.
      asynchronous: whether stages 2 to 5 run in the background.
      own: whether the folder belongs to this process alone, and holds only the
        shards of its devices.
      group: the processes that share the folder.
      warn: called with a line for each checkpoint that is skipped as damaged.
    """
    if keep is not None and keep < 1:
      raise errors.InputError(
        f'cannot keep {keep} checkpoints; keep 1 or more of them'
      )
    self._keep = keep
    self._keep_best = keep_best
    self._asynchronous = asynchronous
    self._warn = warn
    self._own = own
    self._main = own or jax.process_index() == 0
    self._folder = checkpoint_folder.CheckpointFolder(
      folder, warn, group, self._main
    )
    self._last_step: int | None = None  # the step last saved or restored
    self._was_there = False  # whether the folder was seen to exist
    self._pending: concurrent.futures.Future[list[str]] | None = None
    self._pending_step = 0
    self._thread = concurrent.futures.ThreadPoolExecutor(1, 'checkpoint')
    self._files = state_files.StateFiles(own)

  def __enter__(self) -> 'Checkpointer':
    return self

  def __exit__(self, *unused: object) -> None:
    self.close()

  def save(self, step: int, state: Any, extra: dict[str, Any]) -> None:
    """Begins a save; on return the state's buffers may be overwritten.

    Does nothing if `step` was the last to be saved or restored.

    Args:
      step: names the checkpoint.
      state: a pytree of arrays; PRNG keys as `jax.random.key_data`.
      extra: JSON that is stored and returned unchanged. A number
        `extra['metric']` has the effect of `mark_best(step, number)`.

    Raises:
      StoppedError: this save, or the one before it, failed. Checkpoints that
        were complete before are untouched.
    """
    self.wait()
    if step == self._last_step:
      return
    leaves = state_files.describe(state)
    meta = {'step': step, 'leaves': leaves, 'extra': extra}
    if self._own:
      meta[HELD] = state_files.held(state)
    text = json.dumps(meta, indent=1, allow_nan=False)
    part = self._folder.path(step, checkpoint_folder.PART)
    self._check_there()
    try:
      if self._main:
        self._folder.check_writable()
        self._folder.clean()
      self._files.begin_write(part / STATE, state)
    except SAVE_ERRORS as error:
      raise self._failed(step, error) from error
    self._pending_step = step
    self._pending = self._thread.submit(self._finish, step, text)
    if extra.get(METRIC) is not None:
      self.mark_best(step, extra[METRIC])
    if not self._asynchronous:
      self.wait()

  def check(self) -> None:
    """Raises the error of a background save; cheap enough for every step."""
    if self._pending is not None and self._pending.done():
      self.wait()

  def wait(self) -> None:
    """Waits until the last save is complete.

    Raises:
      StoppedError: the save failed; raised once.
    """
    if self._pending is None:
      return
    concurrent.futures.wait([self._pending])  # after Ctrl-C it is still pending
    pending, self._pending = self._pending, None
    try:
      warnings = pending.result()
    except SAVE_ERRORS as error:
      raise self._failed(self._pending_step, error) from error
    self._last_step, self._was_there = self._pending_step, True
    for line in warnings:
      self._warn(line)

  def close(self) -> None:
    """Waits for the last save, raises its error, and ends the threads."""
    try:
      self.wait()
    finally:
      self._thread.shutdown()
      self._files.close()
      # The writers of a failed save may have gone on for a while.
      with contextlib.suppress(*SAVE_ERRORS):
        if self._main:
          self._folder.clean()

  def mark_best(self, step: int, value: float) -> None:
    """Stores the metric of a checkpoint, beside the checkpoints.

    Lower is better; a metric that is not finite is never the best.
    """
    if self._main:
      try:
        self._folder.mark(step, value)
      except OSError as error:
        raise self._failed(step, error) from error

  def is_best(self, step: int, value: float) -> bool:
    """Whether this metric would make a step the best; all processes must ask.

    Raises:
      StoppedError: the last save failed.
    """
    self.wait()  # the checkpoint that is being saved may be the best
    return self._folder.is_best(step, value)

  def best(self) -> tuple[int, float] | None:
    """The checkpoint with the lowest metric, and the metric."""
    return self._folder.best()

  def steps(self) -> list[int]:
    """Steps of all checkpoints, ascending; they are not verified."""
    return self._folder.steps()

  def latest(self) -> tuple[int, dict[str, Any]] | None:
    """Step and extra of the newest checkpoint that is whole; None without any.

    `warn` gets a line for each newer checkpoint that is damaged, once.

    Raises:
      InputError: there are checkpoints, and all of them are damaged.
    """
    self.wait()
    step = next(self._folder.whole(), None)
    if step is None and self.steps():
      raise errors.InputError(
        f'no checkpoint in {self._folder.folder} can be used; move that folder '
        'away to start from the beginning'
      )
    return None if step is None else (step, self._extra(step))

  def extra(self, step: int) -> dict[str, Any]:
    """The JSON that was stored with a checkpoint.

    Raises:
      InputError: the checkpoint is missing or damaged.
    """
    self._check_whole(step)
    return self._extra(step)

  def has(self, step: int) -> bool:
    """Whether a whole checkpoint of a step exists; all processes must ask."""
    self.wait()
    return self._folder.has(step)

  def usable(self, abstract: Any) -> dict[int, dict[str, Any]]:
    """Extra, by step, of the whole checkpoints that this process can restore.

    For a folder with `own`. `warn` gets a line for each checkpoint of another
    mesh or another number of processes: it has other shards than this process's
    devices need for `abstract` (as in `restore_latest`).
    """
    self.wait()
    usable = {}
    needed = state_files.held(abstract)
    for step in self._folder.whole():
      meta = self._folder.meta(step)
      if meta.get(HELD) == needed:
        usable[step] = meta['extra']
      else:
        self._warn(
          f'checkpoint {self._folder.path(step)} is not used: it has what this '
          'process held on another mesh, or of another number of processes'
        )
    return usable

  def forget_after(self, step: int) -> None:
    """Removes the checkpoints of later steps, when a run restarts at `step`."""
    if self._last_step is not None and self._last_step > step:
      self._last_step = None  # it may be saved again
    if self._main:
      self._folder.forget_after(step)

  def restore_latest(
    self, abstract: Any, *, partial: bool = False
  ) -> tuple[Any, dict[str, Any]] | None:
    """State and extra of the newest checkpoint that verifies, or None.

    Args:
      abstract: a pytree of `jax.ShapeDtypeStruct` (or arrays). A leaf is
        restored with the `sharding` given there, whatever mesh saved it; a leaf
        without a sharding is restored as a numpy array.
      partial: whether `abstract` may lack leaves of the checkpoint, which then
        are not read.

    Raises:
      InputError: no checkpoint is whole, or its leaves are others.
    """
    latest = self.latest()
    return latest and (self._read(latest[0], abstract, partial), latest[1])

  def restore(
    self, step: int, abstract: Any, *, partial: bool = False
  ) -> tuple[Any, dict[str, Any]]:
    """State and extra of one step; arguments as in `restore_latest`.

    Raises:
      InputError: the checkpoint is missing, is damaged, or has other leaves.
    """
    self._check_whole(step)
    return self._read(step, abstract, partial), self._extra(step)

  def open_leaf(
    self, step: int, name: str, like: jax.ShapeDtypeStruct
  ) -> stored.Stored:
    """The leaf at a path of a checkpoint; its elements are read when indexed.

    Raises:
      InputError: as `restore`; the leaf must have the type and shape of `like`.
    """
    self._check_whole(step)
    path = self._folder.path(step)
    saved, stored_as = self._leaves(step)
    state_files.check_fits(path, saved, {name: like}, partial=True)
    return stored.Stored(path / STATE, stored_as[name])

  def _check_whole(self, step: int) -> None:
    self.wait()
    if step not in (steps := self.steps()):
      listing = ', '.join(map(str, steps)) or '(none)'
      raise errors.InputError(
        f'no checkpoint {step} in {self._folder.folder}; there are: {listing}'
      )
    if line := self._folder.damage(step):
      raise errors.InputError(f'{line}; take another')

  def _read(self, step: int, abstract: Any, partial: bool) -> Any:
    path = self._folder.path(step)
    saved, stored_as = self._leaves(step)
    state_files.check_fits(path, saved, abstract, partial)
    state = self._files.read(path / STATE, abstract, stored_as)
    self._last_step, self._was_there = step, True
    return state

  def _leaves(self, step: int) -> tuple[dict[str, str], dict[str, str]]:
    """By today's path of each leaf: its type and shape, and its stored path."""
    leaves = self._folder.meta(step)['leaves']
    stored_as = old_paths.stored_as(leaves)
    return {path: leaves[old] for path, old in stored_as.items()}, stored_as

  def _extra(self, step: int) -> dict[str, Any]:
    return self._folder.meta(step)['extra']

  def _check_there(self) -> None:
    """Raises StoppedError if somebody has removed the folder meanwhile."""
    if self._was_there and self._main and not self._folder.folder.exists():
      raise errors.StoppedError(
        f'{self._folder.folder} has vanished, and all checkpoints in it; put '
        'it back, or start again'
      )

  def _finish(self, step: int, meta: str) -> list[str]:
    """Waits for stage 2, and does stages 3 to 5; returns lines for `warn`."""
    self._files.wait()
    self._folder.complete(step, meta)
    if not self._main or self._keep is None:
      return []
    try:
      self._folder.prune(step, self._keep, self._keep_best)
    except OSError as error:
      why = state_files.reason(error)
      return [f'a checkpoint older than {step} cannot be removed: {why}']
    return []

  def _failed(self, step: int, error: Exception) -> errors.StoppedError:
    """The error for a save that failed; removes what it left."""
    if self._main and self._pending is None:
      with contextlib.suppress(OSError):
        self._folder.clean()  # to free a full disk
    newest = self._folder.newest()
    safe = 'there is no other' if newest is None else f'{newest} is intact'
    return errors.StoppedError(
      f'cannot save checkpoint {self._folder.path(step)}: '
      f'{state_files.reason(error)}; {safe}'
    )
