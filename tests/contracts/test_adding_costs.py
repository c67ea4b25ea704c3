"""What adding a part costs: files that change outside the part's own file.

Each part below is added to a copy of the project, as somebody would add it: a
file of its own, and the lines that other files need. What uses the part must
then work there, and so must the tests that look over tables and documents.
CONTRIBUTING.md states the numbers.
"""

import dataclasses
import os
import pathlib
import re
import shutil
import subprocess
import sys
import textwrap

import pytest

ROOT = pathlib.Path(__file__).parents[2]
# Tests that look over tables and documents, and compile no program.
CHECKS = (
  'tests/contracts/added',
  'tests/test_tree.py',
  'tests/test_docs.py::test_every_part_has_a_row_with_all_its_keys',
  'tests/test_docs.py::test_every_measure_has_a_row_with_its_source',
  'tests/benchmarks/test_all.py',
)


@dataclasses.dataclass(frozen=True)
class Addition:
  """A part as it is added.

  Attributes:
    file: path of the part's own file, and
    text: what is in it.
    edits: path -> (line that is there, line put behind it), several a file.
    works: Python that runs in the copy and fails if the part does not work.
  """

  file: str
  text: str
  edits: dict[str, list[tuple[str, str]]]
  works: str


ROUTER = '''
"""The least probable experts."""

import dataclasses

import jax
import jax.numpy as jnp

from moejax.moe import contract


@dataclasses.dataclass(frozen=True)
class LastK(contract.Router):
  """The k least probable experts, all with the same weight."""

  k: int = 1

  @property
  def experts_per_token(self):
    return self.k

  def __call__(self, given):
    prob_TE = jax.nn.softmax(given.logits_TE)
    _, expert_TK = jax.lax.top_k(-prob_TE, self.k)
    return contract.token_choice(
      given, expert_TK, jnp.ones(expert_TK.shape), prob_TE
    )
'''
BENCHMARK = '''
"""How long a sum takes over a product.

  python -m benchmarks.sums
"""

from collections.abc import Sequence

from moejax.core import command, exits


def main(argv: Sequence[str]) -> None:
  """Prints the ratio."""
  flags = command.parser(__doc__)
  command.parse(flags, argv)
  print('ratio 1.0')


if __name__ == '__main__':
  exits.main(main)
'''
FAMILY = '''
"""MyMoE: OLMoE under another name."""

import dataclasses

from moejax.convert.families import olmoe

MY_MOE = dataclasses.replace(
  olmoe.OLMOE, model_type='my_moe', architecture='MyMoeForCausalLM'
)
'''

EVALUATION = '''
"""How many tokens there are."""


def tokens(subject):
  """One row."""
  del subject
  return {'all': {'tokens': 1}}
'''
MEASURE = '''
"""How many layers there are."""


def layers(traces):
  """One row."""
  del traces
  return {'all': {'layers': 1}}
'''


def _rows(room, table, name, text, command):
  """A function that makes rows of values: an evaluation.

  Args:
    room: folder of moejax with the table.
    table: the table's name.
    name: of the function, its file, and its entry.
    text: of the file.
    command: takes names of entries.
  """
  return Addition(
    file=f'moejax/{room}/{name}.py',
    text=text,
    edits={
      f'moejax/{room}/__init__.py': [
        (
          rf'from moejax.{room}\.\w+ import .*',
          f'from moejax.{room} import {name}',
        ),
        (f'{table}.* = {{', f"  '{name}': {name}.{name},"),
      ],
    },
    works=f"""
from moejax import {room}
from moejax.cli import {command}

assert {room}.{table}['{name}'](None) == {{'all': {{'{name}': 1}}}}
with pytest.raises(SystemExit):
  {command}.main(['--help'])
assert '{name}' in capsys.readouterr().out
""",
  )


ADDITIONS = {
  'router': Addition(
    file='moejax/moe/routers/last_k.py',
    text=ROUTER,
    edits={
      'moejax/moe/routers/__init__.py': [
        ('  hierarchical,', '  last_k,'),
        ('ROUTERS = {', "  'last_k': last_k.LastK,"),
      ],
      'docs/moe.md': [
        (
          r'\| router \| keys \|.*\n\|[-|]+',
          '| `last_k` | `k` | the k least |',
        ),
      ],
    },
    works="""
import jax
from moejax import config
from moejax.model import build
from moejax.parallel import mesh as meshes

run = config.load('configs/tiny.py:tiny', [('model.moe.router', 'last_k')])
mesh = meshes.make(run.mesh, jax.devices()[:1])
build.build(run.model, mesh).trace(8, 64)
""",
  ),
  'benchmark': Addition(
    file='benchmarks/sums.py',
    text=BENCHMARK,
    edits={
      'benchmarks/__init__.py': [
        ('  python -m benchmarks.text .*', '  python -m benchmarks.sums  sums'),
      ],
    },
    works="""
from benchmarks import sums
from moejax.core import exits

assert exits.call(sums.main, []) == exits.DONE
""",
  ),
  'evaluation': _rows('evals', 'EVALS', 'tokens', EVALUATION, 'evaluate'),
  'measure': Addition(
    file='moejax/analysis/measures/layers.py',
    text=MEASURE,
    edits={
      'moejax/analysis/__init__.py': [
        (
          'from moejax.analysis.measures.load import load',
          'from moejax.analysis.measures.layers import layers',
        ),
        ('MEASURES.* = {', "  'layers': Measure(layers, 'one'),"),
      ],
      'docs/analysis.md': [
        (
          r'\| measure \| needs \|.*\n\|[-|]+',
          '| `layers` | one | how many? | layers | - |',
        ),
      ],
    },
    works="""
from moejax.analysis import MEASURES
from moejax.cli import analyse

assert MEASURES['layers'](None) == {'all': {'layers': 1}}
with pytest.raises(SystemExit):
  analyse.main(['--help'])
assert 'layers' in capsys.readouterr().out
""",
  ),
  'family': Addition(
    file='moejax/convert/families/my_moe.py',
    text=FAMILY,
    edits={
      'moejax/convert/families/__init__.py': [
        ('  mixtral,', '  my_moe,'),
        ('FAMILIES.* = {', "  'my_moe': my_moe.MY_MOE,"),
        (r'FORMS.* = {\n.*', "  'my_moe': my_moe.MY_MOE,"),
      ],
    },
    works="""
import json
import jax
from moejax.convert import configs, save
from moejax.model import build
from moejax.parallel import mesh as meshes

with open('tests/golden/hf/olmoe/config.json') as file:
  theirs = json.load(file)
model = configs.read(configs.family_of(theirs), theirs)
mesh = meshes.make(meshes.MeshConfig(data=1), jax.devices()[:1])
shapes = build.build(model, mesh).shapes
written = save.plan(model, shapes, 'my_moe').config
assert written['model_type'] == 'my_moe'
assert written['architectures'] == ['MyMoeForCausalLM']
family = configs.family_of(written)
assert configs.read(family, written) == model
""",
  ),
}


def _add(addition, folder):
  """Adds a part; returns the files that were there and have changed."""
  before = {p: p.read_bytes() for p in folder.rglob('*') if p.is_file()}
  own = folder / addition.file
  assert own not in before
  own.write_text(addition.text.lstrip())
  for path, lines in addition.edits.items():
    text = (folder / path).read_text()
    for old, new in lines:
      text, count = re.subn(
        f'^({old})$', lambda m, new=new: f'{m[1]}\n{new}', text, flags=re.M
      )
      assert count == 1, (path, old, count)
    (folder / path).write_text(text)
  return sorted(
    str(p.relative_to(folder)) for p, b in before.items() if p.read_bytes() != b
  )


@pytest.fixture(scope='module')
def copy(tmp_path_factory):
  """The project with all of them, and what each has changed."""
  folder = tmp_path_factory.mktemp('copy') / 'project'
  unused = ('.*', '__pycache__', 'runs', 'build', 'dist', '*.egg-info')
  shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*unused))
  changed = {name: _add(one, folder) for name, one in ADDITIONS.items()}
  return folder, changed


@pytest.mark.parametrize('name', ADDITIONS)
def test_so_many_files_change(copy, name):
  _, changed = copy
  assert changed[name] == sorted(ADDITIONS[name].edits)
  text = ' '.join((ROOT / 'CONTRIBUTING.md').read_text().split())
  stated = re.findall(rf'\ban? {name} changes (\d+)\b', text)
  assert stated == [str(len(changed[name]))]


@pytest.mark.soak
def test_nothing_else_is_needed(copy):
  """They work, and tables, documents and the tree agree again."""
  folder, _ = copy
  own = folder / 'tests' / 'contracts' / 'added'
  own.mkdir()
  for name, one in ADDITIONS.items():
    body = textwrap.indent(one.works.strip('\n'), '  ')
    (own / f'test_{name}.py').write_text(
      f'import pytest\n\n\ndef test_it_works(capsys):\n{body}\n'
    )
  # The tree is written anew, by the command that its test names.
  ended = subprocess.run(
    [sys.executable, '-m', 'pytest', '-n0', '-pno:cacheprovider', *CHECKS],
    cwd=folder,
    env={**os.environ, 'PYTHONPATH': str(folder), 'UPDATE_GOLDEN': '1'},
    capture_output=True,
    text=True,
    check=False,
  )
  assert ended.returncode == 0, ended.stdout + ended.stderr
  tree = (folder / 'docs' / 'tree.md').read_text()
  for one in ADDITIONS.values():
    assert f' {pathlib.Path(one.file).name} ' in tree
