"""The files that `data.files` names: one rule for names, folders and globs.

docs/data.md states the rule for users. A folder means the glob `FOLDER/**/*`,
so both find the same files. Objects of an object store (gs://) are found by
`remote`.
"""

import collections
import fnmatch
import glob
import itertools
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from moejax.core import errors
from moejax.data import opening, readers, remote

_MAGIC = re.compile(r'[*?[]')


class Matches(NamedTuple):
  """The files that a pattern names.

  Attributes:
    paths: in the order of their absolute names; each file once.
    notes: lines about files that were passed over.
  """

  paths: tuple[pathlib.Path, ...]
  notes: tuple[str, ...]


class _Pattern(NamedTuple):
  """One of the patterns between commas.

  Attributes:
    name: the pattern as a path, without backslashes.
    glob: the pattern as a glob; escaped characters stand for themselves.
  """

  name: str
  glob: str


def find(
  key: str, pattern: str, kinds: readers.Readers = readers.READERS
) -> Matches:
  """The files that a pattern names, without those of unknown kinds.

  Links are followed. A folder is searched once and a file is listed once,
  however many names lead to it. Broken links and named pipes are listed as
  well: reading them reports what they are.

  Args:
    key: the config key, for errors.
    pattern: files, folders or globs, joined by commas. A backslash makes a
      comma or a glob character an ordinary one. A pattern that as a whole, or
      between commas, is the name of an existing file or folder is that name.
    kinds: the known kinds of files.

  Raises:
    InputError: a pattern between commas names no file of a known kind, or a
      folder cannot be read.
  """
  known = f'known kinds are: {", ".join(kinds)}'
  paths: list[pathlib.Path] = []
  others: set[pathlib.Path] = set()
  for single in _split(pattern):
    matches: list[Any] = (
      remote.matches(single.glob)
      if remote.is_url(single.name)
      else _matches(single)
    )
    readable = [path for path in matches if readers.suffix(path, kinds)]
    if not readable:
      reason = (
        f'{errors.shown(matches[0])} is of an unknown kind'
        if matches
        else 'no file there matches'
      )
      remedy = known
      if matches and '.txt' in kinds:
        remedy += ' (give a text of another kind a name that ends in .txt)'
      raise errors.InputError(
        f'{key}={single.name!r}: {reason}; {_slip(pattern) or remedy}'
      )
    paths += readable
    others.update(path for path in matches if not readers.suffix(path, kinds))
  if not paths:
    raise errors.InputError(f'{key}={pattern!r} names no file')
  kept, notes = _once(path for path in paths if not opening.is_remote(path))
  kept += sorted({path for path in paths if opening.is_remote(path)})
  if others:
    notes = [
      f'passed over {_files(len(others))} of unknown kinds, the first is '
      f'{errors.shown(min(others))}',
      *notes,
    ]
  return Matches(tuple(kept), tuple(notes))


def _slip(pattern: str) -> str:
  """How to mend a pattern that names no file; '' if that is not known."""
  if re.fullmatch(r'[\[(].*[,\'"].*[\])]', pattern.strip()):
    listed = ','.join(
      word.strip(' \'"') for word in pattern.strip(' [()]').split(',')
    )
    return f'a list has no brackets: {listed}'
  if re.search(r'\{.*\}', pattern):
    return 'braces are not expanded: name each file, joined by commas'
  return ''


def real(path: pathlib.Path) -> str:
  """The name of a file with all links resolved."""
  return os.path.realpath(path)


def _split(pattern: str) -> list[_Pattern]:
  r"""The patterns between commas.

  Example:
    r'a/*.txt,b\,\*.txt'
    [_Pattern('a/*.txt', 'a/*.txt'), _Pattern('b,*.txt', 'b,[*].txt')]
  """
  if os.path.lexists(os.path.expanduser(pattern)):
    return [_Pattern(pattern, glob.escape(pattern))]
  # Characters, an escaped one together with its backslash.
  characters = re.findall(r'\\.|.', pattern, re.DOTALL)
  groups = itertools.groupby(characters, lambda c: c == ',')
  words = [list(group) for is_comma, group in groups if not is_comma]
  return [
    _Pattern(
      ''.join(c[-1] for c in word),
      ''.join(glob.escape(c[1]) if len(c) == 2 else c for c in word),
    )
    for word in words
  ]


def _matches(pattern: _Pattern) -> list[pathlib.Path]:
  """The files that one pattern names, sorted."""
  path = pathlib.Path(os.path.expanduser(pattern.name))
  if os.path.isdir(path):
    return sorted(_expand(path, ('**', '*')))
  if os.path.lexists(path):
    return [path]
  pure = pathlib.PurePath(os.path.expanduser(pattern.glob))
  names = pure.parts[1:] if pure.anchor else pure.parts
  return sorted(_expand(pathlib.Path(pure.anchor), names))


def _expand(base: pathlib.Path, names: Sequence[str]) -> Iterator[pathlib.Path]:
  """The files below a folder that match a glob.

  Args:
    base: the folder.
    names: the glob, split at slashes.
  """
  first, rest = names[0], names[1:]
  if first == '**':
    for folder in _folders(base):
      yield from _expand(folder, rest or ('*',))
    return
  if _MAGIC.search(first):
    hidden = first.startswith('.')
    fits = re.compile(fnmatch.translate(first)).match
    inside = [
      base / entry.name
      for entry in _entries(base)
      if fits(entry.name) and (hidden or not entry.name.startswith('.'))
    ]
  else:
    inside = [base / first]
  for path in inside:
    if rest and os.path.isdir(path):
      yield from _expand(path, rest)
    elif not rest and os.path.lexists(path) and not os.path.isdir(path):
      yield path


def _folders(base: pathlib.Path) -> Iterator[pathlib.Path]:
  """A folder and all folders below it, each once.

  Folders behind links come last. So a folder that can be reached without a link
  is listed under that name, and a link to a folder above is not followed.
  """
  seen: set[str] = set()
  plain, linked = [base], collections.deque[pathlib.Path]()
  while plain or linked:
    folder = plain.pop() if plain else linked.popleft()
    where = real(folder)
    if where in seen or not os.path.isdir(folder):
      continue
    seen.add(where)
    yield folder
    for entry in _entries(folder):
      if entry.name.startswith('.'):
        continue
      if entry.is_symlink():
        linked.append(folder / entry.name)
      elif entry.is_dir(follow_symlinks=False):
        plain.append(folder / entry.name)


def _entries(folder: pathlib.Path) -> list[os.DirEntry]:
  try:
    with os.scandir(folder) as entries:
      return sorted(entries, key=lambda entry: entry.name)
  except OSError as e:
    raise errors.InputError(
      f'folder {errors.shown(folder)} cannot be read: {e.strerror or e}'
    ) from None


def _once(
  paths: Iterable[pathlib.Path],
) -> tuple[list[pathlib.Path], list[str]]:
  """Lists each file once, in order, with notes about files of several names.

  Of several names of a file the one without links is kept, or else the first.
  """
  absolute: dict[str, pathlib.Path] = {}
  for path in paths:
    absolute.setdefault(os.path.abspath(path), path)
  ordered = sorted(absolute, key=lambda name: name.split(os.sep))
  folders: dict[str, str] = {}
  names: dict[str, list[str]] = {}
  for name in ordered:
    folder, last = os.path.split(name)
    if folder not in folders:
      folders[folder] = os.path.realpath(folder)
    place = os.path.join(folders[folder], last)
    if os.path.islink(place):
      place = os.path.realpath(place)
    names.setdefault(place, []).append(name)
  kept = {
    place if place in aliases else aliases[0]
    for place, aliases in names.items()
  }
  notes = []
  twice = [aliases for aliases in names.values() if len(aliases) > 1]
  if twice:
    (one, other, *_), num = twice[0], len(twice)
    notes.append(
      f'{_files(num)} under more than one name, read once; the first is '
      f'{errors.shown(absolute[one])}, also {errors.shown(absolute[other])}'
    )
  return [absolute[name] for name in ordered if name in kept], notes


def _files(num: int) -> str:
  """'1 file', '2 files'."""
  return f'{num:,} file{"s" * (num > 1)}'
