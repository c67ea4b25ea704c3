"""The objects of an object store that a pattern names, such as gs://b/x/*.gz.

The rule is that of `patterns` for files: a folder means all below it, `**` any
number of folders, and names that begin with a dot are passed over. A folder
is told from an object by its name where that has a known ending, so that a
listing of thousands of objects takes one request and not thousands.
"""

import fnmatch
import re
from collections.abc import Iterator, Sequence
from typing import Any

from etils import epath

from moejax.core import errors
from moejax.data import opening, readers

# Those that etils opens.
_STORES = ('gs', 's3', 'az')
_MAGIC = re.compile(r'[*?[]')


def is_url(pattern: str) -> bool:
  """Whether a pattern is in an object store."""
  return '://' in pattern


def matches(pattern: str) -> list[Any]:
  """The objects that one pattern names, sorted, as etils paths.

  Raises:
    InputError: the store is of an unknown kind, or cannot be listed.
  """
  scheme, _, rest = pattern.partition('://')
  bucket, *names = [name for name in rest.split('/') if name]
  if scheme not in _STORES:
    known = ', '.join(f'{store}://' for store in _STORES)
    raise errors.InputError(
      f'{pattern!r}: object stores of the kind {scheme}:// are not known; '
      f'known are {known}'
    )
  base = epath.Path(f'{scheme}://{bucket}')
  fixed = next(
    (n for n, name in enumerate(names) if _MAGIC.search(name)), len(names)
  )
  base, names = base.joinpath(*names[:fixed]), names[fixed:]
  try:
    if not base.exists():
      return []
    if not names and not _is_folder(base):
      return [base]
    return sorted(_expand(base, names or ('**', '*')))
  except errors.InputError:
    raise
  except Exception as e:
    raise opening.unreachable(pattern, e) from e


def _expand(base: Any, names: Sequence[str]) -> Iterator[Any]:
  """The objects below a folder that match a glob, split at slashes."""
  first, rest = names[0], names[1:]
  inside = [path for path in base.iterdir() if not _hidden(path, first)]
  if first == '**':
    yield from _expand(base, rest or ('*',))
    for path in inside:
      if _is_folder(path):
        yield from _expand(path, names)
    return
  fits = re.compile(fnmatch.translate(first)).match
  for path in filter(lambda path: fits(path.name), inside):
    if rest and _is_folder(path):
      yield from _expand(path, rest)
    elif not rest and not _is_folder(path):
      yield path


def _hidden(path: Any, pattern: str) -> bool:
  return path.name.startswith('.') and not pattern.startswith('.')


def _is_folder(path: Any) -> bool:
  return not readers.suffix(path) and path.is_dir()
