"""The notebooks for Colab: what is in them, and that they run."""

import ast
import json
import os
import pathlib
import re
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FOLDER = ROOT / 'tpu_scripts' / 'colab'
BOOKS = sorted(FOLDER.glob('*.ipynb'))
MOST_LINES = 24  # of a cell


def _cells(path, kind):
  book = json.loads(path.read_text())
  cells = [cell for cell in book['cells'] if cell['cell_type'] == kind]
  return [''.join(cell['source']) for cell in cells]


def _plain(source):
  """The source without commands of the shell, which Python cannot read."""
  lines, inside = [], False
  for line in source.splitlines():
    begins = not inside and line.lstrip().startswith('!')
    indent = line[: len(line) - len(line.lstrip())]
    lines.append(f'{indent}pass' if begins else '' if inside else line)
    inside = (inside or begins) and line.endswith('\\')
  return '\n'.join(lines)


def test_all_of_them_are_here():
  assert {path.stem for path in BOOKS} == {
    'analysis',
    'expert_estimation',
    'hugging_face',
    'plan_a_pod',
    'quickstart',
    'routers',
  }


@pytest.mark.parametrize('path', BOOKS, ids=lambda path: path.stem)
def test_it_is_without_output_and_has_a_kernel(path):
  book = json.loads(path.read_text())
  assert book['metadata']['kernelspec']['name'] == 'python3'
  for cell in book['cells']:
    if cell['cell_type'] == 'code':
      assert cell['outputs'] == []
      assert cell['execution_count'] is None
  for source in _cells(path, 'code'):
    assert len(source.splitlines()) <= MOST_LINES
    ast.parse(_plain(source))


@pytest.mark.parametrize('path', BOOKS, ids=lambda path: path.stem)
def test_its_badge_opens_it(path):
  first = _cells(path, 'markdown')[0]
  (opened,) = re.findall(r'/github/[\w-]+/[\w-]+/blob/main/(\S+)\)', first)
  assert ROOT / opened == path


@pytest.mark.parametrize('path', BOOKS, ids=lambda path: path.stem)
def test_it_begins_by_installing_and_by_naming_the_device(path):
  """The same two cells in all, which no JAX of this process comes before."""
  install, device, *others = _cells(path, 'code')
  assert [install, device] == _cells(BOOKS[0], 'code')[:2]
  assert 'import jax' not in re.sub(r"'import jax[^']*'", '', device)
  assert others


def test_without_a_device_it_says_so(capfd):
  """As in a runtime in which JAX does not start at all."""
  install, device, *_ = _cells(BOOKS[0], 'code')
  names: dict = {}
  exec(install, names)  # noqa: S102
  term = os.environ.get('TERM')
  try:
    exec(device.replace('import jax', 'raise SystemExit'), names)  # noqa: S102
  finally:
    if term is not None:
      os.environ['TERM'] = term
  out = capfd.readouterr().out
  assert names['SMALL']
  assert 'JAX that does not start finds no device' in out
  assert 'runs on the CPU' in out


@pytest.mark.soak
@pytest.mark.parametrize('path', BOOKS, ids=lambda path: path.stem)
def test_it_runs(path, tmp_path, monkeypatch):
  """In a kernel of Jupyter, where a command of the shell may fail unseen."""
  import nbclient
  import nbformat

  monkeypatch.setenv('MPLBACKEND', 'agg')
  # As a user's: with the devices that there are, and programs that are fast.
  monkeypatch.delenv('XLA_FLAGS', raising=False)
  monkeypatch.setenv('PYTHONPATH', str(ROOT))
  here = str(pathlib.Path(sys.executable).parent)
  monkeypatch.setenv('PATH', f'{here}{os.pathsep}{os.environ["PATH"]}')
  book = nbformat.read(path, 4)
  client = nbclient.NotebookClient(
    book,
    timeout=900,
    kernel_name='python3',
    resources={'metadata': {'path': str(tmp_path)}},
  )
  client.execute()
  texts = [
    out.get('text', '')
    for cell in book.cells
    if cell.cell_type == 'code'
    for out in cell.outputs
  ]
  said = '\n'.join(texts)
  assert not re.search(r'^(error:|Traceback|/bin/\w*sh:)', said, re.MULTILINE)
