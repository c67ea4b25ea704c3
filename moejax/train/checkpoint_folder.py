"""Which checkpoints a folder holds, which of them are whole, which may go.

checkpoints/
  00000100/         complete; see train/checkpoint.py for what is in it
  00000200/
  00000300.part/    being written, or left by a kill: never read
  00000050.old/     being removed: never read
  values.json       {"100": 3.2, "200": 2.9}: the metric of each, lower better
"""

import errno
import json
import math
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

from etils import epath

from moejax.core import files
from moejax.parallel.group import SINGLE, Group

META = 'meta.json'
VALUES = 'values.json'
PART, OLD = '.part', '.old'
PROBE = '.writable'


class CheckpointFolder:
  """Looks after the folders of one run's checkpoints, but not what is in them.

  Every byte of a checkpoint is verified at most once by an object.

  Args:
    folder: theirs.
    warn: is given one line for each checkpoint that had to be skipped.
    group: the processes that look after it together: each makes its share of
      the checksums, so all have to call `damage`, `whole` and `complete`.
    writes: whether it is this process that writes and removes.
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
    self._bad: dict[int, str] = {}  # with the reason

  def path(self, step: int, suffix: str = '') -> epath.Path:
    """The folder of a step."""
    return self.folder / f'{step:08d}{suffix}'

  def steps(self) -> list[int]:
    """Steps of the checkpoints there are, ascending; not yet verified."""
    try:
      names = [path.name for path in self.folder.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
      return []
    return sorted(int(name) for name in names if re.fullmatch(r'\d{8,}', name))

  def newest(self) -> int | None:
    """The newest step, leaving out what is known to be damaged."""
    return max(set(self.steps()) - set(self._bad), default=None)

  def meta(self, step: int) -> dict[str, Any]:
    """What meta.json says."""
    return json.loads((self.path(step) / META).read_text())

  def damage(self, step: int) -> str | None:
    """A line on what is wrong with a checkpoint, or None."""
    if step not in self._good and step not in self._bad:
      if reason := files.damage(self.path(step), self._spread):
        self._bad[step] = f'checkpoint {self.path(step)} is damaged: {reason}'
      else:
        self._good.add(step)
    return self._bad.get(step)

  def whole(self) -> Iterator[int]:
    """Steps that verify, newest first; others are warned of, once."""
    for step in reversed(self._group.broadcast('checkpoints', self.steps)):
      known = step in self._bad
      if (line := self.damage(step)) is None:
        yield step
      elif not known:
        self._warn(f'{line}; trying the one before')

  def complete(self, step: int, meta: str) -> None:
    """Turns `<step>.part` into `<step>`, once it is whole and reads back.

    Raises:
      OSError: the disk is full, not writable, or does not hold what it is told.
    """
    part, path = self.path(step, PART), self.path(step)
    if self._writes:
      files.atomic_write_text(part / META, meta)
    files.write_manifest(part, self._spread, self._writes)
    if reason := files.damage(part, self._spread):
      raise OSError(f'what was written reads differently: {reason}')
    if self._writes:
      if path.exists():  # damaged, or of a run that went another way
        path.rename(self.path(step, OLD))
      part.rename(path)
      if files.is_local(self.folder):
        files.sync_folder(self.folder)
    self._good.add(step)
    self._bad.pop(step, None)

  def forget_after(self, step: int) -> None:
    """Removes what is newer than `step`, from which a run has gone on."""
    for newer in self.steps():
      if newer > step:
        self.path(newer).rename(self.path(newer, OLD))
    self.clean()

  def prune(self, step: int, keep: int, keep_best: bool) -> None:
    """Removes what is older than `step`, a good one, and is not to be kept.

    Example, keep=2 and the best at 20: of 10, 20, 30, 40 (damaged), 50 and 60
    the folders of 20, 50 and 60 remain.
    """
    older = [s for s in self.steps() if s < step]
    good = [s for s in older if s not in self._bad]
    kept = {*good[max(0, len(good) - keep + 1) :]}
    if keep_best and (best := self.best()):
      kept.add(best[0])
    for old in older:
      if old not in kept:
        # First its name: half a folder must not look like a checkpoint.
        self.path(old).rename(self.path(old, OLD))
    self.clean()

  def clean(self) -> None:
    """Removes what an interrupted save, or removal, has left."""
    if not self.folder.exists():
      return
    for path in self.folder.iterdir():
      if re.fullmatch(rf'\d{{8,}}({PART}|{OLD})', path.name):
        path.rmtree()

  def check_writable(self) -> None:
    """Makes the folder, and tries a file in it.

    Orbax must not be the first to find out: where it cannot make a folder its
    threads wait for that folder, and the process cannot end.

    Raises:
      OSError: the disk is read-only, say, or the folder is a file.
    """
    if files.is_local(self.folder):
      if self.folder.exists() and not self.folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
      self.folder.mkdir(parents=True, exist_ok=True)
      probe = self.folder / PROBE
      probe.mkdir(exist_ok=True)
      probe.rmdir()

  def mark(self, step: int, value: float) -> None:
    """Notes the metric of a step; forgets those of steps that are no more."""
    if not math.isfinite(value):
      return
    there = self.steps()
    values = {**self._values(), step: float(value)}
    kept = {
      str(s): v
      for s, v in sorted(values.items())
      if s in there or s > max(there, default=-1)  # that may be on its way
    }
    self.folder.mkdir(parents=True, exist_ok=True)
    files.atomic_write_json(self.folder / VALUES, kept)

  def is_best(self, step: int, value: float) -> bool:
    """Whether the metric is lower than that of every other step there is."""

    def compare() -> bool:
      others = {**self._known_values(), step: math.inf}
      return math.isfinite(value) and value < min(others.values())

    return self._group.broadcast('best checkpoint', compare)

  def best(self) -> tuple[int, float] | None:
    """The step with the lowest metric, of those there are, and the metric."""
    values = [(v, s) for s, v in self._known_values().items()]
    return min(values)[::-1] if values else None

  def _known_values(self) -> dict[int, float]:
    """The metric of each step that is there and not known to be damaged."""
    steps = set(self.steps()) - set(self._bad)
    return {s: v for s, v in self._values().items() if s in steps}

  def _values(self) -> dict[int, float]:
    try:
      found = json.loads((self.folder / VALUES).read_text())
      return {int(step): float(value) for step, value in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
      return {}  # at worst it is not known which is the best
