"""Links of pages that are read both in the repository and on the site.

In the repository a link to another file is a path from the page. On the site a
page may lie elsewhere, and most files are not there at all: those links lead to
the repository on GitHub.
"""

import os
import pathlib
import re
from collections.abc import Mapping

REPOSITORY = 'https://github.com/moejax/moejax'
# `](target)` of a link or a picture; what is behind a space is its title.
_TARGET = re.compile(r'(?<=\]\()([^)\s]+)')
_FENCE = re.compile(r'^ {0,3}(```+|~~~+)')
_SCHEME = re.compile(r'[a-z][a-z0-9+.-]*:', re.IGNORECASE)
_CODE = re.compile(r'(`+)(?!`).*?(?<!`)\1(?!`)')
# What a page shows itself.
PICTURES = ('.png', '.svg', '.jpg', '.gif')


def rewritten(
  text: str, at: str, root: pathlib.Path, pages: Mapping[str, str]
) -> str:
  """The text of a page with links that work on the site.

  Example, of the page docs/runs.md, which is the site's runs.md:
    [a](moe.md#routing)      [a](moe.md#routing)
    [a](../configs/tiny.py)  [a](<REPOSITORY>/blob/main/configs/tiny.py)
    [a](../CHANGELOG.md)     [a](pages/changelog.md)

  Args:
    text: Markdown.
    at: the file's path in the repository, as in `docs/runs.md`.
    root: the folder of the repository.
    pages: path in the repository -> path in the site's source folder, of all
      files that the site shows.
  """
  lines, fence = [], ''
  for line in text.splitlines(keepends=True):
    found = _FENCE.match(line)
    if found and (not fence or found[1].startswith(fence)):
      fence = '' if fence else found[1]
    elif not fence:
      line = _line(line, at, root, pages)
    lines.append(line)
  return ''.join(lines)


def _line(
  line: str, at: str, root: pathlib.Path, pages: Mapping[str, str]
) -> str:
  """A line with links that work on the site; code in it stays as it is."""
  code = [(found.start(), found.end()) for found in _CODE.finditer(line)]

  def target(found: re.Match[str]) -> str:
    if any(start < found.start() < end for start, end in code):
      return found[0]
    return _target(found[0], at, root, pages)

  return _TARGET.sub(target, line)


def _target(
  link: str, at: str, root: pathlib.Path, pages: Mapping[str, str]
) -> str:
  if _SCHEME.match(link) or link.startswith('#'):
    return link
  path, mark, place = link.partition('#')
  there = os.path.normpath(os.path.join(os.path.dirname(at), path))
  here = os.path.dirname(pages.get(at, at))
  if there in pages:
    return os.path.relpath(pages[there], here) + mark + place
  # A folder's page stands for the folder.
  readme = f'{there}/README.md'
  if readme in pages:
    return os.path.relpath(pages[readme], here) + mark + place
  if there.endswith(PICTURES):
    return os.path.relpath(root / there, root / 'docs' / here)
  kind = 'tree' if (root / there).is_dir() else 'blob'
  return f'{REPOSITORY}/{kind}/main/{there}{mark}{place}'
