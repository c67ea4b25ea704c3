"""Packed rows that nobody has used for a while, and how they are removed.

Rows of a text are kept for ever, since any run may come back to them. What may
go is what is not in use and was not opened for some days. A removed cache is
made again when a run wants it.
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


class Entry(NamedTuple):
  """A finished or unfinished cache.

  Attributes:
    path: its folder.
    size: bytes of all its files.
    used: when it was last opened or written to, in seconds since 1970.
    kept: why it stays; '' if it may go.
  """

  path: pathlib.Path
  size: int
  used: float
  kept: str


def entries(folder: pathlib.Path, days: float, now: float) -> list[Entry]:
  """All caches of a folder, the longest unused ones first.

  Folders that are no caches, or hold anything else beside one, are left out.

  Args:
    folder: where caches are kept.
    days: a cache that was used within so many days is kept.
    now: seconds since 1970.

  Raises:
    InputError: the folder cannot be read.
  """
  found = []
  for path in _caches(folder):
    with contextlib.suppress(FileNotFoundError):  # just removed by another
      size = sum(file.stat().st_size for file in path.iterdir())
      used = _used(path)
      found.append(Entry(path, size, used, _kept(path, used, days, now)))
  return sorted(found, key=lambda entry: (entry.used, entry.path))


def remove(path: pathlib.Path) -> bool:
  """Removes a cache; False, and nothing is done, if it has come into use.

  It loses its name first: whoever looks for it finds all of it, or none.

  Raises:
    InputError: the system does not let us; one line with its reason.
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
  """Takes text that is gone out of the record of checksums; how many files."""
  return sums.forget_missing(folder)


def _caches(folder: pathlib.Path) -> Iterator[pathlib.Path]:
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
  """When a cache was last used.

  Versions that did not set the time of `meta.json` when they opened a cache
  read it at least, which most file systems note about once a day.
  """
  for file in (cache.META, cache_writer.PROGRESS):
    with contextlib.suppress(OSError):
      status = (path / file).stat()
      return max(status.st_mtime, status.st_atime)
  return path.stat().st_mtime


@contextlib.contextmanager
def _taken(path: pathlib.Path) -> Iterator[bool]:
  """Whether nobody writes or reads a cache; until the block ends, nobody can.

  Where there are no locks nobody is seen: the time alone decides.
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
