"""Pages of documentation as their readers use them: the blocks of code."""

import dataclasses
import pathlib
import re
import sys
import types

ROOT = pathlib.Path(__file__).parents[2]
BLOCK = re.compile(r'^```(\w*)\n(.*?)^```$', re.M | re.S)
# In the paragraph before a block that is a file: "Write `a.py`:", or "Write the
# runs to `b.py`. They are two:".
FILE = re.compile(r'\bWrite (?:[^.`]*? to )?`(\w+\.py)`')


@dataclasses.dataclass(frozen=True)
class Block:
  """A block of code.

  Attributes:
    kind: the word behind the fence, such as python; '' for commands and output.
    text: what stands in it.
    file: the file that a reader is asked to write it to; '' if none.
    line: of the page, from 1.
  """

  kind: str
  text: str
  file: str
  line: int


def blocks(path):
  """The blocks of a page, in order."""
  page, found = path.read_text(), []
  for match in BLOCK.finditer(page):
    before = page[: match.start()].rstrip('\n').rpartition('\n\n')[2]
    file = FILE.search(before)
    name = file[1] if file and before.endswith(':') else ''
    line = page.count('\n', 0, match.start()) + 1
    found.append(Block(match[1], match[2], name, line))
  return found


def run_python(path, folder):
  """Runs the Python blocks of a page one after the other.

  Those that are files are written into the folder first.

  Args:
    path: of the page.
    folder: the current one.

  Returns:
    Dictionary with what the blocks have defined.
  """
  module = types.ModuleType('page')  # dataclasses look up their module
  sys.modules['page'] = module
  try:
    for block in blocks(path):
      if block.kind != 'python':
        continue
      if block.file:
        (folder / block.file).write_text(block.text)
      # Errors are shown with the line of the page.
      code = compile('\n' * block.line + block.text, path, 'exec')
      exec(code, vars(module))  # ruff: ignore[exec-builtin] -- our own pages
  finally:
    del sys.modules['page']
  return vars(module)
