"""The manifest of a folder: size and checksum of every file below it."""

import concurrent.futures
import json
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

from etils import epath

from moejax.core import files

T = TypeVar('T')
MANIFEST = 'manifest.json'
# Number of files that are read at the same time. One thread reads a fast disk,
# or an object store, at a small part of its speed.
THREADS = 8


def _files_below(folder: epath.Path) -> Iterator[tuple[str, epath.Path]]:
  """Every file below a folder by its name relative to it, in sorted order."""
  for path in sorted(folder.iterdir(), key=lambda p: p.name):
    if path.is_dir():
      for name, below in _files_below(path):
        yield f'{path.name}/{name}', below
    else:
      yield path.name, path


class Spread(Protocol):
  """Does some work for each of many items, in one process or in several.

  One process: `in_threads`. Several: `Group.spread` of parallel/group.py.
  """

  def __call__(
    self, work: Callable[[Any], T], items: Callable[[], list[Any]]
  ) -> list[T]:
    """The result of `work` for each item, in the order of the items.

    `work` is called in threads, `items`, which makes the list, in one process.
    """
    ...


def in_threads(
  work: Callable[[Any], T], items: Callable[[], list[Any]]
) -> list[T]:
  """A `Spread` over threads of this process."""
  pool = concurrent.futures.ThreadPoolExecutor(THREADS, 'files')
  try:
    return [*pool.map(work, items())]
  finally:
    pool.shutdown(cancel_futures=True)


def write_manifest(
  folder: epath.PathLike, spread: Spread = in_threads, writes: bool = True
) -> None:
  """Writes size and checksum of every file below a folder to manifest.json.

  Args:
    folder: the folder; manifest.json is put in it.
    spread: how the checksums are shared out among threads and processes.
    writes: whether this process writes manifest.json; one of them does.

  Example, for a folder with `a/x` (3 bytes) and `y` (0 bytes):
    {"files": {"a/x": {"bytes": 3, "sha256": "ba78..."},
               "y": {"bytes": 0, "sha256": "e3b0..."}}}
  """
  folder = epath.Path(folder)

  def size_and_sum(name: str) -> tuple[str, dict[str, Any]]:
    path = folder / name
    digest = files.sha256(path, sync=True)
    return name, {'bytes': path.stat().length, 'sha256': digest}

  names = lambda: [n for n, _ in _files_below(folder) if n != MANIFEST]
  entries = dict(spread(size_and_sum, names))
  if writes:
    files.atomic_write_json(folder / MANIFEST, {'files': entries})


def damage(folder: epath.PathLike, spread: Spread = in_threads) -> str | None:
  """Compares a folder with its manifest; None if every byte is right.

  Otherwise the first difference: 'a/x has 2 bytes, not 3'. Sizes are compared
  first, so a cut file is found without reading the others. Files that the
  manifest does not name are ignored.
  """
  folder = epath.Path(folder)

  def wrong(item: tuple[str | None, str]) -> str | None:
    name, text = item
    return text if name is None else _wrong_sum(folder, folder / name, text)

  reasons = spread(wrong, lambda: _to_compare(folder))
  return next(filter(None, reasons), None)


def _to_compare(folder: epath.Path) -> list[tuple[str | None, str]]:
  """The name and stated checksum of each file, if all sizes are right.

  Otherwise one pair (None, reason): manifest.json or a size is wrong.
  """
  try:
    listed = json.loads((folder / MANIFEST).read_text())['files']
    stated = [(n, v['bytes'], v['sha256']) for n, v in listed.items()]
  except OSError:
    return [(None, f'{MANIFEST} cannot be read')]
  except (ValueError, KeyError, TypeError, AttributeError):
    return [(None, f'{MANIFEST} is damaged')]
  wrong = (_wrong_size(folder, folder / n, size) for n, size, _ in stated)
  if reason := next(filter(None, wrong), None):
    return [(None, reason)]
  return [(name, checksum) for name, _, checksum in stated]


def _wrong_size(folder: epath.Path, path: epath.Path, size: int) -> str | None:
  name = path.relative_to(folder)
  try:
    length = path.stat().length
  except OSError as error:
    return f'{name}: {error.strerror or error}'
  return (
    None if length == size else f'{name} has {length:,} bytes, not {size:,}'
  )


def _wrong_sum(
  folder: epath.Path, path: epath.Path, checksum: str
) -> str | None:
  name = path.relative_to(folder)
  try:
    same = files.sha256(path) == checksum
    return None if same else f'{name} has another checksum'
  except OSError as error:
    return f'{name}: {error.strerror or error}'
