"""The folder of a run's checkpoints: its list, verification and removal.

checkpoints/
  00000100/         complete; train/checkpoint.py describes its files
  00000200/
  00000300.part/    being written, or left by a kill: never read
  00000050.old/     being removed: never read
  values.json       {"100": 3.2, "200": 2.9}: metric by step; lower is better
"""

import errno
import json
import math
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

from etils import epath

from moejax.core import files, manifest
from moejax.parallel.group import SINGLE, Group

META = 'meta.json'
VALUES = 'values.json'
PART, OLD = '.part', '.old'
PROBE = '.writable'
# Errors that say that there is no such folder, and why there is none.
_NO_FOLDER = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)


class CheckpointFolder:
  """The checkpoints of one run as folders; their state is read elsewhere.

  Every byte of a checkpoint is verified at most once by an object.

  Args:
    folder: folder that contains the checkpoints.
    warn: called with a line for each checkpoint that is skipped as damaged.
    group: the processes that share the folder. Each makes its share of the
      checksums, so all must call `damage`, `whole` and `complete`.
    writes: whether this process writes and removes; one of the group does.
  """

  def __init__(
    self,
    folder: epath.PathLike,
    warn: Callable[[str], None],
    group: Group = SINGLE,
    writes: bool = True,
  ):
    self._group = group
    self._spread = group.spread('checksums of files')
    self._writes = writes
    self.folder = epath.Path(folder)
    if files.is_local(folder):  # Orbax takes absolute paths only
      self.folder = epath.Path(os.path.abspath(folder))
    self._warn = warn
    self._good: set[int] = set()
    self._bad: dict[int, str] = {}  # line about the damage, by step

  def path(self, step: int, suffix: str = '') -> epath.Path:
    """The folder of one checkpoint, with a suffix such as PART."""
    return self.folder / f'{step:08d}{suffix}'

  def steps(self) -> list[int]:
    """Steps of all checkpoints, ascending; they are not verified."""
    try:
      names = [path.name for path in self.folder.iterdir()]
    except OSError as error:
      if error.errno not in _NO_FOLDER:
        raise
      return []
    return sorted(int(name) for name in names if re.fullmatch(r'\d{8,}', name))

  def newest(self) -> int | None:
    """The newest step whose checkpoint is not known to be damaged, or None."""
    return max(set(self.steps()) - set(self._bad), default=None)

  def meta(self, step: int) -> dict[str, Any]:
    """The content of a checkpoint's meta.json."""
    return json.loads((self.path(step) / META).read_text())

  def damage(self, step: int) -> str | None:
    """Verifies a checkpoint: a line about its damage, None if it is whole."""
    if step not in self._good and step not in self._bad:
      if reason := manifest.damage(self.path(step), self._spread):
        self._bad[step] = f'checkpoint {self.path(step)} is damaged: {reason}'
      else:
        self._good.add(step)
    return self._bad.get(step)

  def has(self, step: int) -> bool:
    """Whether a whole checkpoint of a step exists; all processes must ask."""
    exists = self._group.broadcast('a step', lambda: step in self.steps())
    return exists and self.damage(step) is None

  def whole(self) -> Iterator[int]:
    """Steps of whole checkpoints, newest first; warns once of damaged ones."""
    for step in reversed(self._group.broadcast('checkpoints', self.steps)):
      known = step in self._bad
      if (line := self.damage(step)) is None:
        yield step
      elif not known:
        self._warn(f'{line}; trying the one before')

  def complete(self, step: int, meta: str) -> None:
    """Completes, verifies and renames `<step>.part` to `<step>`.

    Args:
      step: the checkpoint.
      meta: text of meta.json.

    Raises:
      OSError: the disk is full, is not writable, or returns other bytes than
        were written.
    """
    part, path = self.path(step, PART), self.path(step)
    if self._writes:
      files.atomic_write_text(part / META, meta)
    manifest.write_manifest(part, self._spread, self._writes)
    if reason := manifest.damage(part, self._spread):
      raise OSError(f'what was written reads differently: {reason}')
    if self._writes:
      if path.exists():  # damaged, or left by a run before a restart
        path.rename(self.path(step, OLD))
      part.rename(path)
      if files.is_local(self.folder):
        files.sync_folder(self.folder)
    self._good.add(step)
    self._bad.pop(step, None)

  def forget_after(self, step: int) -> None:
    """Removes the checkpoints newer than `step`, when a run restarts there."""
    for newer in self.steps():
      if newer > step:
        self.path(newer).rename(self.path(newer, OLD))
    self.clean()

  def prune(self, step: int, keep: int, keep_best: bool) -> None:
    """Removes the checkpoints older than `step` that need not be kept.

    Example, step=60, keep=3 and the best at 10: of 10, 20, 30, 40 (damaged), 50
    and 60 the folders of 10, 30, 50 and 60 remain.

    Args:
      step: a step whose checkpoint is whole.
      keep: number of the newest whole checkpoints to keep, that one included.
      keep_best: whether to keep the one with the lowest metric as well.
    """
    older = [s for s in self.steps() if s < step]
    good = [s for s in older if s not in self._bad]
    kept = {*good[max(0, len(good) - keep + 1) :]}
    if keep_best and (best := self.best()):
      kept.add(best[0])
    for old in older:
      if old not in kept:
        # The name goes first: half a folder must not look like a checkpoint.
        self.path(old).rename(self.path(old, OLD))
    self.clean()

  def clean(self) -> None:
    """Removes the remains of interrupted saves and removals."""
    if not self.folder.exists():
      return
    for path in self.folder.iterdir():
      if re.fullmatch(rf'\d{{8,}}({PART}|{OLD})', path.name):
        path.rmtree()

  def check_writable(self) -> None:
    """Makes the folder, and tries to make another one in it.

    It is done before Orbax writes: if Orbax cannot make a folder, its threads
    wait for that folder for ever, and the process cannot end.

    Raises:
      OSError: for example, the disk is read-only, or the folder is a file.
    """
    if files.is_local(self.folder):
      if self.folder.exists() and not self.folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
      self.folder.mkdir(parents=True, exist_ok=True)
      probe = self.folder / PROBE
      probe.mkdir(exist_ok=True)
      probe.rmdir()

  def mark(self, step: int, value: float) -> None:
    """Stores the metric of a step; drops those of removed checkpoints."""
    if not math.isfinite(value):
      return
    steps = self.steps()
    values = {**self._values(), step: float(value)}
    # A step beyond the newest checkpoint may be being saved.
    kept = {
      str(s): v
      for s, v in sorted(values.items())
      if s in steps or s > max(steps, default=-1)
    }
    self.folder.mkdir(parents=True, exist_ok=True)
    files.atomic_write_json(self.folder / VALUES, kept)

  def is_best(self, step: int, value: float) -> bool:
    """Whether the metric is lower than that of every other checkpoint."""

    def compare() -> bool:
      others = {**self._known_values(), step: math.inf}
      return math.isfinite(value) and value < min(others.values())

    return self._group.broadcast('best checkpoint', compare)

  def best(self) -> tuple[int, float] | None:
    """The step of the checkpoint with the lowest metric, and the metric."""
    values = [(v, s) for s, v in self._known_values().items()]
    return min(values)[::-1] if values else None

  def _known_values(self) -> dict[int, float]:
    """The metric of each checkpoint that is not known to be damaged."""
    steps = set(self.steps()) - set(self._bad)
    return {s: v for s, v in self._values().items() if s in steps}

  def _values(self) -> dict[int, float]:
    try:
      values = json.loads((self.folder / VALUES).read_text())
      return {int(step): float(value) for step, value in values.items()}
    except (OSError, ValueError, TypeError, AttributeError):
      return {}  # then the best checkpoint is not known
