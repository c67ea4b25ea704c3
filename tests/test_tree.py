"""docs/tree.md is the real tree, and tests/ mirrors it.

After a change that is meant, write it anew with

  UPDATE_GOLDEN=1 python -m pytest tests/test_tree.py
"""

import ast
import os
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / 'docs' / 'tree.md'
TREE = re.compile(r'(?<=\n```\n).*?(?=\n```)', re.DOTALL)


def _summary(path):
  """The first line of a module's docstring."""
  return ast.get_docstring(ast.parse(path.read_text())).splitlines()[0]


def _tree():
  """A line per file, with what its docstring says first."""
  lines = []
  moejax, benchmarks = ROOT / 'moejax', ROOT / 'benchmarks'
  for folder in [moejax, *sorted(moejax.rglob('*/')), benchmarks]:
    files = sorted(folder.glob('*.py'))
    if not files:
      continue
    name = folder.relative_to(ROOT)
    init = folder / '__init__.py'
    lines.append(f'{name}/'.ljust(28) + _summary(init))
    indent = '  ' * len(name.parts)
    lines += [
      f'{indent}{path.name}'.ljust(28) + _summary(path)
      for path in files
      if path != init
    ]
  return '\n'.join(lines)


def test_the_tree_has_a_line_per_file():
  text = PAGE.read_text()
  if 'UPDATE_GOLDEN' in os.environ:
    PAGE.write_text(TREE.sub(lambda _: _tree(), text))
    text = PAGE.read_text()
  assert TREE.search(text).group() == _tree()


# Folders of tests that are not those of a room.
OTHERS = {
  'benchmarks': 'the folder of that name at the top',
  'browser': 'pages in a real browser',
  'contracts': 'suites over whole tables',
  'end_to_end': 'runs through the real commands',
  'golden': 'what is compared with, and what makes it',
  'helpers': 'what several test files share',
  'multi_host': 'runs of several processes',
  'soak': 'hours; not run by default',
  'tpu_scripts': 'the folder of that name at the top',
}


def test_tests_mirror_the_folders_of_the_package():
  tests, rooms = ROOT / 'tests', ROOT / 'moejax'
  files = [path.relative_to(tests) for path in tests.rglob('*.py')]
  folders = {path.parent for path in files} - {pathlib.Path()}
  others = {path for path in folders if path.parts[0] in OTHERS}
  assert {path.parts[0] for path in others} == OTHERS.keys()
  lost = {str(path) for path in folders - others if not (rooms / path).is_dir()}
  assert not lost, 'move their tests to the folder of what they test'
