"""Checksums of text files, and a record that saves reading them again.

A cache of packed rows is identified by the contents of its text. A file is read
for its checksum when it is new, or when its size or one of its times has
changed. For every other file the recorded checksum is taken, so a start on a
text that was packed before reads none of it. A copied or touched file is read
once, and its contents are recognised.

The record is `sums.json` in the folder of the caches. If it is lost or damaged,
the text is read once.
"""

import contextlib
import json
import os
import pathlib
import secrets
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from moejax.core import errors, files, manifest

RECORD = 'sums.json'
# Two changes within one tick of a file system's clock leave the same time. So
# the checksum of a file that changed within the last _TICK_S seconds is not
# recorded.
_TICK_S = 2.0
_LONG = 2**30  # bytes; reading this much is announced


class Stamp(NamedTuple):
  """Size and times of a file, which tell whether it has changed.

  `ctime`, the time of the last change of the inode, is among them because tools
  that copy files may set `mtime` to any value.
  """

  size: int
  mtime_ns: int
  ctime_ns: int


class Sums:
  """SHA-256 of files, each read once at most.

  Args:
    folder: the folder of the record; created when the record is first written.
    say: called with a line for the user before much text is read.
  """

  def __init__(
    self, folder: pathlib.Path, say: Callable[[str], None] = lambda _: None
  ):
    self._path = folder / RECORD
    self._say = say
    self._known: dict[str, tuple[Stamp, str]] | None = None

  def of(self, paths: Sequence[pathlib.Path]) -> list[str]:
    """The checksums of the files, as hexadecimal text.

    Raises:
      InputError: a file cannot be read, or changes while it is.
    """
    if self._known is None:
      self._known = _read(self._path)
    known, now = self._known, time.time()
    names = [os.path.realpath(path) for path in paths]
    stamps = [_stamp(path) for path in paths]
    unknown = {
      name: (path, stamp)
      for name, path, stamp in zip(names, paths, stamps, strict=True)
      if name not in known or known[name][0] != stamp
    }
    size = sum(stamp.size for _, stamp in unknown.values())
    if size >= _LONG:
      self._say(
        f'reading {size / 1e9:.1f} GB of text for its checksums; a start on '
        'the same files does not read them again'
      )
    digests = manifest.in_threads(_digest, lambda: list(unknown.values()))
    new = {
      name: (stamp, digest)
      for (name, (_, stamp)), digest in zip(
        unknown.items(), digests, strict=True
      )
    }
    known.update(new)
    settled = {
      name: entry
      for name, entry in new.items()
      if entry[0].ctime_ns < (now - _TICK_S) * 1e9
    }
    if settled:
      with contextlib.suppress(OSError):  # the folder may be read-only
        _add(self._path, settled)
    return [known[name][1] for name in names]


def forget_missing(folder: pathlib.Path) -> int:
  """Drops files that no longer exist from a record; returns their number."""
  path = folder / RECORD
  known = _read(path)
  kept = {name: entry for name, entry in known.items() if os.path.exists(name)}
  if len(kept) < len(known):
    _write(path, kept)
  for partial in folder.glob(f'{RECORD}.*.part'):  # left by a killed process
    partial.unlink(missing_ok=True)
  return len(known) - len(kept)


def _stamp(path: pathlib.Path) -> Stamp:
  try:
    status = path.stat()
  except OSError as e:
    raise _unreadable(path, e) from None
  return Stamp(status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _digest(file: tuple[pathlib.Path, Stamp]) -> str:
  path, before = file
  try:
    digest = files.sha256(path)
  except OSError as e:
    raise _unreadable(path, e) from None
  if _stamp(path) != before:
    raise errors.InputError(
      f'{errors.shown(path)} changed while it was read: wait until it is whole'
    )
  return digest


def _unreadable(path: pathlib.Path, e: OSError) -> errors.InputError:
  return errors.InputError(
    f'{errors.shown(path)} cannot be read: {e.strerror or e}'
  )


def _read(path: pathlib.Path) -> dict[str, tuple[Stamp, str]]:
  """The record as (stamp, checksum) by file name; empty if it is damaged."""
  try:
    tree = json.loads(path.read_text())
    return {
      str(name): (Stamp(*map(int, stamp)), str(digest))
      for name, (stamp, digest) in tree.items()
    }
  except (OSError, ValueError, TypeError, AttributeError):
    return {}


def _add(path: pathlib.Path, new: dict[str, tuple[Stamp, str]]) -> None:
  """Adds to a record.

  If two processes add at once, the additions of one may be lost; its files are
  then read once more.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  _write(path, {**_read(path), **new})


def _write(path: pathlib.Path, known: dict[str, tuple[Stamp, str]]) -> None:
  """Writes a record, whole or not at all."""
  partial = path.with_name(f'{path.name}.{secrets.token_hex(8)}.part')
  try:
    partial.write_text(json.dumps(known, sort_keys=True))
    partial.replace(path)
  finally:
    partial.unlink(missing_ok=True)
