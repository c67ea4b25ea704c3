"""Lists caches of packed rows, and removes those that are no longer used.

Nothing removes a cache by itself, since any run may need it again. A cache may
be removed if no process has it open and it was not opened for some days. A run
that needs a removed cache packs its text again.
"""

import contextlib
import os
import pathlib
import re
import secrets
import shutil
from collections.abc import Iterator
from typing import NamedTuple

from moejax.core import errors, locks
from moejax.data import cache, cache_writer, sums

DAY = 24 * 3600.0
_NAME = re.compile(r'.+-[0-9a-f]{16}(\.part)?')
_INSIDE = re.compile(
  r'\d{5,}\.rows|meta\.json|progress\.json|baselines-.+\.json|.+\.part'
)
_REMOVED = '.removed-'


class CacheEntry(NamedTuple):
  """A finished or unfinished cache.

  Attributes:
    path: its folder.
    size: bytes of all its files.
    used: when it was last opened or written to, in seconds since 1970.
    kept: the reason why it is kept; '' if it may be removed.
  """

  path: pathlib.Path
  size: int
  used: float
  kept: str


def entries(folder: pathlib.Path, days: float, now: float) -> list[CacheEntry]:
  """All caches of a folder, the longest unused ones first.

  Folders that hold anything but a cache are left out.

  Args:
    folder: the folder of all caches.
    days: caches that were used within this number of days are kept.
    now: seconds since 1970.

  Raises:
    InputError: the folder cannot be read.
  """
  caches = []
  for path in _caches(folder):
    with contextlib.suppress(FileNotFoundError):  # just removed by another
      size = sum(file.stat().st_size for file in path.iterdir())
      used = _used(path)
      caches.append(CacheEntry(path, size, used, _kept(path, used, days, now)))
  return sorted(caches, key=lambda entry: (entry.used, entry.path))


def remove(path: pathlib.Path) -> bool:
  """Removes a cache; returns False and does nothing if it is in use by now.

  The folder is renamed first, so that other processes see a whole cache or
  none.

  Raises:
    InputError: the system does not allow it; one line with its reason.
  """
  try:
    with _taken(path) as ours:
      if ours:
        if not path.name.startswith(_REMOVED):
          name = f'{_REMOVED}{secrets.token_hex(4)}-{path.name}'
          path = path.rename(path.with_name(name))
        shutil.rmtree(path)
  except OSError as e:
    raise errors.InputError(
      f'{path} cannot be removed: {e.strerror or e}'
    ) from None
  return ours


def forget(folder: pathlib.Path) -> int:
  """Drops missing files from the record of checksums; returns their number."""
  return sums.forget_missing(folder)


def _caches(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """The folders that hold a cache, finished, unfinished or half removed."""
  try:
    paths = sorted(folder.iterdir())
  except OSError as e:
    raise errors.InputError(
      f'data.cache_dir={str(folder)!r} cannot be read: {e.strerror or e}'
    ) from None
  for path in paths:
    name = path.name
    if name.startswith(_REMOVED):
      name = name.removeprefix(_REMOVED).split('-', 1)[-1]
    if not _NAME.fullmatch(name) or path.is_symlink() or not path.is_dir():
      continue
    files = [file.name for file in path.iterdir()]
    marks = {cache.META, cache_writer.PROGRESS} & set(files)
    ours = all(_INSIDE.fullmatch(file) for file in files)
    if ours and (marks or path.name != name or name.endswith('.part')):
      yield path


def _kept(path: pathlib.Path, used: float, days: float, now: float) -> str:
  """The reason why a cache is kept; '' if it may be removed."""
  try:
    with _taken(path) as ours:
      if not ours:
        return 'in use'
  except OSError as e:
    return e.strerror or str(e)
  if path.name.startswith(_REMOVED) or now - used > days * DAY:
    return ''
  return 'used recently'


def _used(path: pathlib.Path) -> float:
  """When a cache was last used, in seconds since 1970.

  Earlier versions did not set the modification time of `meta.json` when they
  opened a cache. They did read it, and most file systems record the time of a
  read about once a day.
  """
  for file in (cache.META, cache_writer.PROGRESS):
    with contextlib.suppress(OSError):
      status = (path / file).stat()
      return max(status.st_mtime, status.st_atime)
  return path.stat().st_mtime


@contextlib.contextmanager
def _taken(path: pathlib.Path) -> Iterator[bool]:
  """Locks a cache for the block; False if another process has it in use.

  On a file system without locks it is always True: only times count there.
  """
  name = path.name.removesuffix('.part')
  lock = path.with_name(f'.{name}.lock')
  with contextlib.ExitStack() as stack:
    ours = True
    for file in (lock, path / cache.META):
      with contextlib.suppress(FileNotFoundError, locks.NoLocksError):
        opened = os.open(file, os.O_RDWR)
        stack.callback(os.close, opened)
        ours = ours and locks.take(opened)
    yield ours
