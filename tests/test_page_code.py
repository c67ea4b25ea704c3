"""The Python of the pages of reference: it runs, or calls what there is.

The how-tos and the tutorial run whole (test_howtos.py). In other pages some
blocks are parts of programs. Of these, what they import from moejax is
imported, and every call of it is compared with the signature.
"""

import ast
import importlib
import inspect
import re
import textwrap
import types

import pytest
from helpers import pages

DOCS = pages.ROOT / 'docs'
PAGES = [path for path in sorted(DOCS.glob('*.md')) if path.stem != 'tutorial']
# Blocks that stand alone.
WHOLE = ['sweeps', 'theory', 'vision_training']
INDENTED = re.compile(r'^( *)```python\n(.*?)^\1```$', re.M | re.S)


def python(path):
  """The blocks of a page, those in lists too."""
  found = INDENTED.finditer(path.read_text())
  return [textwrap.dedent(match[2]) for match in found]


def imported(tree):
  """What a block imports from moejax, by the name that it has there."""
  found = {}
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      for alias in node.names:
        root, _, rest = alias.name.partition('.')
        if root == 'moejax':
          importlib.import_module(alias.name)
          assert not rest or alias.asname, f'import {alias.name} as a name'
          found[alias.asname or root] = importlib.import_module(alias.name)
    elif isinstance(node, ast.ImportFrom):
      if not node.module.startswith('moejax'):
        continue
      for alias in node.names:
        found[alias.asname or alias.name] = _member(node.module, alias.name)
  return found


def _member(module, name):
  owner = importlib.import_module(module)
  if hasattr(owner, name):
    return getattr(owner, name)
  return importlib.import_module(f'{module}.{name}')


def known(node, names):
  """The thing that an expression such as `calibrating.Calibration` names."""
  if isinstance(node, ast.Name):
    return names.get(node.id)
  if isinstance(node, ast.Attribute):
    owner = known(node.value, names)
    if isinstance(owner, types.ModuleType | type):
      assert hasattr(owner, node.attr), f'{owner.__name__}.{node.attr}'
      return getattr(owner, node.attr)
  return None


def compare(text):
  """Fails if a block uses what moejax does not have, or calls it wrongly."""
  tree = ast.parse(text)
  names, calls = imported(tree), 0
  for node in ast.walk(tree):
    if isinstance(node, ast.Attribute):
      known(node, names)
    if isinstance(node, ast.Call) and (called := known(node.func, names)):
      calls += 1
      words = {word.arg: None for word in node.keywords}
      inspect.signature(called).bind(*node.args, **words)
  return calls


@pytest.mark.parametrize(
  'path', [path for path in PAGES if python(path)], ids=lambda path: path.stem
)
def test_what_a_page_calls_is_there_and_takes_its_arguments(path):
  for text in python(path):
    compare(text)


def test_wrong_calls_are_seen():
  head = 'from moejax.run import calibrating\n'
  right = (
    head + "calibrating.calibrate_run('runs/a', calibrating.Calibration())"
  )
  assert compare(right) == 2
  for text, error in (
    ('from moejax.run import calibration', ModuleNotFoundError),
    (head + 'calibrating.measure()', AssertionError),
    (head + 'calibrating.calibrate_run()', TypeError),
    (right.replace('Calibration()', 'Calibration(file="x")'), TypeError),
  ):
    with pytest.raises(error):
      compare(text)


@pytest.mark.parametrize('name', WHOLE)
def test_blocks_that_stand_alone_run(name, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  pages.run_python(DOCS / f'{name}.md', tmp_path)
