"""Replaces the text between two comments in a Markdown document."""

import pathlib

from moejax.core import errors, files

BEGIN, END = '<!-- begin sweep {} -->', '<!-- end sweep {} -->'


def split(path: pathlib.Path, name: str) -> tuple[str, str]:
  """The text before the first comment, and that behind the second one.

  For a file that does not exist yet these are a heading and a line break.

  Args:
    path: path of the document.
    name: name of the sweep, which both comments have.

  Raises:
    InputError: the file lacks one of the two comments, has one of them twice,
      or has them in the wrong order.
  """
  if not path.exists():
    return f'# {name}\n\n', '\n'
  text = path.read_text(encoding='utf-8')
  begin, end = BEGIN.format(name), END.format(name)
  before, first, rest = text.partition(begin)
  _, second, after = rest.partition(end)
  if not (first and second) or begin in rest or end in after:
    raise errors.InputError(
      f'--out={path} must have the lines {begin} and {end} once, in this '
      'order; the table goes between them'
    )
  return before, after


def put(path: pathlib.Path, name: str, text: str) -> None:
  """Replaces the text between the two comments, or makes the file.

  Example, name `routers`:
    # Routers                           # Routers
    <!-- begin sweep routers -->        <!-- begin sweep routers -->
    old table                becomes    new table
    <!-- end sweep routers -->          <!-- end sweep routers -->
    More.                               More.

  Raises:
    InputError: as of `split`.
  """
  before, after = split(path, name)
  inside = f'{BEGIN.format(name)}\n{text.strip()}\n{END.format(name)}'
  files.atomic_write_text(path, before + inside + after)
