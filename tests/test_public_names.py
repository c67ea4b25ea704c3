"""`import moejax` is instant, and its public names are there when used."""

import ast
import doctest
import importlib
import pathlib
import subprocess
import sys

import pytest

import moejax

ROOT = pathlib.Path(__file__).parents[1]
FILE = ROOT / 'moejax' / '__init__.py'

IMPORT = """
import sys
before = set(sys.modules)
import moejax
assert moejax.__version__
assert 'Run' in dir(moejax)
print(*sorted(set(sys.modules) - before))
"""


def imports_for_type_checkers():
  """Public name -> 'module:name there', from the block of TYPE_CHECKING."""
  (block,) = (
    node
    for node in ast.parse(FILE.read_text()).body
    if isinstance(node, ast.If) and ast.unparse(node.test) == 'TYPE_CHECKING'
  )
  return {
    alias.asname or alias.name: f'{statement.module}:{alias.name}'
    for statement in block.body
    for alias in statement.names
  }


def test_importing_moejax_imports_the_standard_library_alone():
  """No other package and no module of moejax: they come when they are used."""
  done = subprocess.run(
    [sys.executable, '-c', IMPORT],
    capture_output=True,
    text=True,
    cwd=ROOT,
    check=True,
  )
  others = [
    name
    for name in done.stdout.split()
    if name.split('.')[0] not in sys.stdlib_module_names
  ]
  assert others == ['moejax']


def test_type_checkers_see_the_names_that_are_there():
  homes = {
    name: home if ':' in home else f'{home}:{name}'
    for name, home in moejax._HOMES.items()
  }
  assert imports_for_type_checkers() == homes
  assert sorted(moejax.__all__) == sorted(homes)


@pytest.mark.parametrize('name', moejax.__all__)
def test_a_public_name_is_what_its_module_has(name):
  module, _, attribute = imports_for_type_checkers()[name].partition(':')
  value = getattr(moejax, name)
  assert value is getattr(importlib.import_module(module), attribute)


def test_no_public_name_hides_a_module():
  modules = {path.stem for path in FILE.parent.iterdir()}
  assert modules & set(moejax.__all__) == set()


def test_a_name_that_is_not_there_is_an_attribute_error():
  with pytest.raises(AttributeError, match="no attribute 'Runn'"):
    moejax.Runn  # noqa: B018


@pytest.mark.soak
def test_the_lines_of_the_docstring_run_as_they_stand(monkeypatch):
  monkeypatch.chdir(ROOT)
  failed, tried = doctest.testmod(moejax)
  assert tried >= 10
  assert failed == 0


def test_the_readme_shows_the_same_lines():
  examples = doctest.DocTestParser().get_examples(moejax.__doc__)
  lines = ''.join(example.source for example in examples)
  assert lines in (ROOT / 'README.md').read_text().replace('\n\n', '\n')
