"""The README's tree is the real one, and its commands exist.

After a change that is meant, write the tree anew with

  UPDATE_GOLDEN=1 python -m pytest tests/test_readme.py
"""

import ast
import importlib.util
import os
import pathlib
import re
import subprocess

ROOT = pathlib.Path(__file__).parents[1]
README = ROOT / 'README.md'
TREE = re.compile(r'(?<=## The tree\n\n```\n).*?(?=\n```)', re.DOTALL)


def _summary(path):
  """The first line of a module's docstring."""
  return ast.get_docstring(ast.parse(path.read_text())).splitlines()[0]


def _tree():
  """A line per file, with what its docstring says first."""
  lines = []
  for folder in [ROOT / 'moejax', *sorted((ROOT / 'moejax').rglob('*/'))]:
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
  text = README.read_text()
  if 'UPDATE_GOLDEN' in os.environ:
    README.write_text(TREE.sub(lambda _: _tree(), text))
    text = README.read_text()
  assert TREE.search(text).group() == _tree()


def test_every_module_that_the_readme_runs_exists():
  text = README.read_text()
  modules = set(re.findall(r'python -m (moejax[\w.]+)', text))
  assert {'moejax.main', 'moejax.cli.generate'} <= modules
  for module in modules:
    assert importlib.util.find_spec(module), module


def test_every_file_that_the_readme_names_exists():
  text = README.read_text()
  for path in re.findall(r'(?:configs|tests|docs)/[\w/]+\.(?:py|md)', text):
    assert (ROOT / path).exists(), path


def test_make_knows_every_target_that_the_readme_names():
  targets = set(re.findall(r'^make (\w+)', README.read_text(), re.MULTILINE))
  assert targets == {'demo', 'test'}
  for target in targets:
    done = subprocess.run(
      ['make', '--dry-run', target], cwd=ROOT, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_ci_runs_the_readmes_own_test_command():
  assert '\nmake test\n' in (ROOT / '.ci' / 'run').read_text()
