"""`moejax doctor`: what it prints, and its exit codes."""

import json
import pathlib
import subprocess
import sys

import pytest

from moejax.cli import doctor
from moejax.core import exits
from moejax.doctor import examine
from moejax.doctor.finding import BROKEN, MISSING, Finding

ROOT = pathlib.Path(__file__).parents[2]
FOUND = [
  Finding('packages', 'jax', '0.12'),
  Finding('packages', 'flax', '0.11', BROKEN, 'pip install flax'),
  Finding('features', 'plot', 'pictures', MISSING, 'pip install plot'),
  Finding('experts', 'fused', 'differs', BROKEN),
  Finding('disk', 'write', '9 MB/s', value=9e6, unit='B/s'),
  Finding('disk', 'read', '8 MB/s', value=8e6, unit='B/s'),
]


@pytest.fixture
def run(monkeypatch, capsys):
  """Exit code and output where only some of FOUND is found."""

  def run(names, *words):
    found = [one for one in FOUND if one.name in names]
    monkeypatch.setattr(examine, 'findings', lambda parts, workdir: iter(found))
    code = exits.call(doctor.main, words)
    return code, *capsys.readouterr()

  return run


def test_each_part_has_its_heading_and_lines(run):
  code, out, err = run(['jax', 'plot', 'write', 'read'])
  assert (code, err) == (0, '')
  assert [line.split(maxsplit=1) for line in out.splitlines()] == [
    ['packages:'],
    ['jax', '0.12'],
    ['features:'],
    ['plot', 'pictures: pip install plot'],
    ['disk:'],
    ['write', '9 MB/s'],
    ['read', '8 MB/s'],
  ]


@pytest.mark.parametrize(
  ('names', 'code', 'words'),
  [
    (['jax', 'plot'], 0, ''),
    (['jax', 'flax'], exits.BAD_INPUT, 'error: broken: flax; the lines above'),
    (['fused'], exits.STOPPED, 'stopped: the self-check fails: fused; the li'),
    (['flax', 'fused'], exits.BAD_INPUT, 'error: broken: flax; '),
  ],
)
@pytest.mark.parametrize('flag', [[], ['--json']])
def test_the_exit_code_says_what_is_broken(names, code, words, flag, run):
  ended, out, err = run(names, *flag)
  assert ended == code
  assert err.startswith(words)
  assert len(err.splitlines()) == bool(code)
  if flag:
    rows = json.loads(out)
    assert [Finding(**row) for row in rows] == [
      one for one in FOUND if one.name in names
    ]


def test_a_broken_line_says_so_and_how_to_mend_it(run):
  _, out, _ = run(['flax'])
  assert out.splitlines()[1].split(maxsplit=1) == [
    'flax',
    'BROKEN: 0.11: pip install flax',
  ]


def test_an_unknown_part_names_the_nearest(capsys):
  assert exits.call(doctor.main, ['--only=disc']) == exits.BAD_INPUT
  assert "unknown part 'disc'; did you mean 'disk'?" in capsys.readouterr().err


def test_parts_and_folder_are_those_of_the_flags(monkeypatch, capsys):
  asked = []

  def findings(parts, workdir):
    asked.append((parts, workdir))
    return iter([])

  monkeypatch.setattr(examine, 'findings', findings)
  exits.call(doctor.main, ['--only=disk,python', '--workdir=/x'])
  exits.call(doctor.main, [])
  assert asked == [(['disk', 'python'], '/x'), ([*examine.PARTS], 'runs')]


# A folder before all others, with a `jax` that cannot be imported and a numpy
# that ends the process.
LIGHT = """
import sys
before = set(sys.modules)
from moejax.cli import doctor
from moejax.core import exits
code = exits.call(doctor.main, ['--only=python,packages,experts'])
others = {n.split('.')[0] for n in set(sys.modules) - before}
print(code, *sorted(others - set(sys.stdlib_module_names)))
"""


def test_it_runs_where_nothing_can_be_imported(tmp_path):
  """numpy ends its process, all else raises; doctor itself needs neither."""
  (tmp_path / 'numpy.py').write_text('import os\nos._exit(9)\n')
  for name in ('jax', 'flax', 'etils', 'rich', 'filelock', 'absl', 'jinja2'):
    (tmp_path / f'{name}.py').write_text(f'raise RuntimeError("{name}")\n')
  done = subprocess.run(
    [sys.executable, '-c', LIGHT],
    capture_output=True,
    text=True,
    cwd=tmp_path,
    env={'PYTHONPATH': f'{tmp_path}:{ROOT}', 'PATH': ''},
    check=True,
  )
  *lines, last = done.stdout.splitlines()
  assert last == f'{exits.BAD_INPUT} moejax'
  shown = {line.split()[0]: line for line in lines if line[0] == ' '}
  assert 'BROKEN: ends the process with exit code 9' in shown['numpy']
  for name in ('jax', 'flax', 'etils', 'rich'):
    assert f'BROKEN: RuntimeError: {name}: pip install' in shown[name]
  assert 'not examined: numpy, jax, flax cannot be used' in shown['experts']
  assert done.stderr.startswith('error: broken: numpy, ')
