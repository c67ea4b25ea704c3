"""How-tos and tutorial: their Python runs, their loop restarts as it should."""

import os
import pathlib
import re
import shutil
import subprocess

import jax.numpy as jnp
import pytest
from helpers import pages

import moejax
from moejax import config
from moejax.config import plugins
from moejax.core import errors, table
from moejax.moe.routers import ROUTERS
from moejax.plan import count
from moejax.sweep import sweep_file

FOLDER = pathlib.Path(__file__).parents[1] / 'docs' / 'howto'
HOWTOS = sorted(path.stem for path in FOLDER.glob('*.md'))


@pytest.fixture
def here(tmp_path, monkeypatch):
  """An empty current folder; added routers are taken out afterwards."""
  monkeypatch.chdir(tmp_path)
  yield tmp_path
  for name in [name for name, cls in ROUTERS.items() if table.is_added(cls)]:
    del ROUTERS[name]


def test_every_one_is_listed():
  text = (FOLDER / 'README.md').read_text()
  listed = [name for name in HOWTOS if f'({name}.md)' in text]
  assert listed == [name for name in HOWTOS if name != 'README']
  assert len(listed) == 10


@pytest.mark.parametrize('name', HOWTOS)
def test_a_howto_is_short_and_has_a_command(name):
  text = (FOLDER / f'{name}.md').read_text()
  if name != 'README':
    assert '\nmoejax ' in text or '\ntpu_scripts/' in text
    assert 40 <= len(text.splitlines()) <= 100


TUTORIAL = FOLDER.parent / 'tutorial.md'
WITH_PYTHON = [
  path
  for path in [*sorted(FOLDER.glob('*.md')), TUTORIAL]
  if any(one.kind == 'python' for one in pages.blocks(path))
]


def test_these_have_python():
  names = {path.stem for path in WITH_PYTHON}
  assert {'add_a_router', 'add_a_measure', 'add_a_benchmark'} < names


@pytest.mark.parametrize('path', WITH_PYTHON, ids=lambda path: path.stem)
def test_the_python_of_a_page_runs(path, here):
  pages.run_python(path, here)


def test_the_runs_of_the_tutorial_have_equal_costs(here):
  pages.run_python(TUTORIAL, here)
  runs = sweep_file.load('compare.py')
  assert len(runs) == 6
  counts = [
    count.count(config.load(run.config, [*run.overrides.items()]).model)
    for run in runs
  ]
  for one in counts:
    assert one.total_of == counts[0].total_of
    assert one.active_of == counts[0].active_of


def test_the_compared_runs_are_as_many_as_the_page_says(here):
  page = FOLDER / 'compare_at_equal_cost.md'
  pages.run_python(page, here)
  assert 'are twelve runs' in page.read_text()
  assert len(sweep_file.load('compare.py')) == 12


def _error(call, *args):
  """The line of the InputError that a call raises."""
  with pytest.raises(errors.InputError) as error:
    call(*args)
  assert '\n' not in str(error.value)
  return str(error.value)


def test_the_errors_of_the_tutorial_are_what_it_says(here, monkeypatch):
  pages.run_python(TUTORIAL, here)
  shape_TE = jnp.zeros((1024, 16))
  tokens = {'valid_T': jnp.ones(1024, bool), 'index_T': jnp.arange(1024)}
  inputs = moejax.RouterInput(shape_TE, **tokens, key=None, row_length=128)
  race, lottery = here / 'race.py', here / 'lottery.py'
  router = lottery.read_text()
  race.write_text(race.read_text().replace(": 'lottery'", ": 'lotery'"))
  lines = [_error(config.load, 'race.py:lottery')]
  lottery.write_text(router.replace(', weight_TK, ', ', weight_TK[:, 0], '))
  plugins.load('lottery.py')
  lines.append(_error(ROUTERS['lottery'](), inputs))
  (here / 'elsewhere').mkdir()
  monkeypatch.chdir('elsewhere')
  lines.append(_error(config.load, 'race.py:lottery'))
  lines.append(_error(config.of_workdir, 'runs/first'))
  said = re.findall(r'^\| .* \| `error: (.*)` \|$', TUTORIAL.read_text(), re.M)
  assert len(said) == len(lines)
  for line, words in zip(lines, said, strict=True):
    assert line.startswith(words.removesuffix('...')), (line, words)


@pytest.mark.parametrize(
  ('codes', 'code', 'starts'), [([75, 6, 4, 0], 0, 4), ([75, 3, 0], 3, 2)]
)
def test_the_loop_restarts_what_trying_again_mends(
  here, monkeypatch, codes, code, starts
):
  (loop,) = [
    block.text
    for block in pages.blocks(FOLDER / 'resume.md')
    if block.kind == 'sh'
  ]
  (here / 'codes').write_text(''.join(f'{one}\n' for one in codes))
  take = 'code=$(head -1 codes); sed -i 1d codes; exit $code'
  for name, body in (('moejax', take), ('sleep', 'exit 0')):
    (here / name).write_text(f'#!/bin/sh\n{body}\n')
    (here / name).chmod(0o755)
  monkeypatch.setenv('PATH', f'{here}{os.pathsep}{os.environ["PATH"]}')
  done = subprocess.run([shutil.which('sh'), '-c', loop], check=False)
  assert done.returncode == code
  left = (here / 'codes').read_text().split()
  assert len(codes) - len(left) == starts
