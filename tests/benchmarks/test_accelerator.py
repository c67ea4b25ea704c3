"""The command for the day that an accelerator is there, tried on CPU."""

import json
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import accelerator
from benchmarks import accelerator_sections as sections
from moejax.core import exits

# What the machine that runs it may lack.
MISSING = (
  'datasets',
  'grain',
  'ml_collections',
  'seqio',
  'tensorflow',
  'tensorflow_datasets',
)
WITHOUT = """
import sys
sys.modules.update(dict.fromkeys({missing}))
from benchmarks import accelerator
from moejax.core import exits
exits.main(accelerator.main)
"""


def _rows(folder):
  text = (folder / accelerator.ROWS).read_text()
  return [json.loads(line) for line in text.splitlines()]


def _section(name, folder):
  """The rows of a section that runs in this process."""
  flags = [f'--out={folder}', '--tiny', f'--section={name}']
  assert exits.call(accelerator.main, flags) == 0
  return _rows(folder)


def test_kernels_are_right(tmp_path):
  rows = _section('correctness', tmp_path)
  assert {(row['name'], row['case'].partition(',')[0]) for row in rows} == {
    ('ragged_dot', 'grouped matmul'),
    ('reference', 'grouped matmul'),
    ('reference', 'attention'),
    ('chunked', 'attention'),
    ('xla', 'attention'),
  }
  for row in rows:
    assert row['ok'], row
    assert row['error'] <= row['allowed']


def test_a_wrong_kernel_is_seen(tmp_path, monkeypatch):
  class Wrong:
    row_multiple = 1

    def __call__(self, x_RD, w_EDF, size_E):
      right = sections.grouped_matmuls.ReferenceMatmul()(x_RD, w_EDF, size_E)
      return 1.05 * right

  monkeypatch.setitem(
    sections.grouped_matmuls.GROUPED_MATMULS, 'ragged_dot', Wrong
  )
  rows = _section('correctness', tmp_path)
  wrong = [row for row in rows if not row['ok']]
  assert {row['name'] for row in wrong} == {'ragged_dot'}
  for row in wrong:
    assert row['error'] == pytest.approx(0.05, rel=0.2)


def test_nan_is_not_ok():
  one = np.ones(2)
  assert not sections.compared([np.array([1, np.nan])], [one], 'float32')['ok']
  assert sections.compared([one], [one], 'float32')['ok']


def test_references_by_hand():
  """Two rows of the first expert, one of the second; one token sees itself."""
  x_RD = jnp.array([[1.0], [2.0], [3.0]])
  w_EDF, dy_RF = jnp.array([[[10.0]], [[100.0]]]), jnp.ones((3, 1))
  y_RF, dx_RD, dw_EDF = sections.by_expert(x_RD, w_EDF, dy_RF, np.array([2, 1]))
  assert y_RF.tolist() == [[10], [20], [300]]
  assert dx_RD.tolist() == [[10], [10], [100]]
  assert dw_EDF.tolist() == [[[3]], [[3]]]
  q = k = jnp.zeros((1, 3, 1, 1))
  v = jnp.array([1.0, 3.0, 5.0]).reshape(1, 3, 1, 1)
  out = sections.attention(q, k, v, np.array([[1, 1, 2]]))
  assert out.ravel().tolist() == [1, 2, 5]


@pytest.mark.soak
def test_every_kind_of_expert_parallelism_is_timed_on_several_devices(tmp_path):
  rows = _section('expert_parallel', tmp_path)
  assert {row['name'] for row in rows} == {*sections.EXPERT_PARALLEL}
  assert all(row['ms'] > 0 for row in rows), rows


@pytest.mark.soak
def test_the_dry_run_leaves_rows_numbers_and_a_page(tmp_path):
  """In a process without the packages that such a machine may lack."""
  program = WITHOUT.format(missing=MISSING)
  flags = [f'--out={tmp_path}', '--tiny', '--section=step']
  done = subprocess.run(
    [sys.executable, '-c', program, *flags],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  *notes, step = _rows(tmp_path)
  assert [set(note) for note in notes] == [{'section', 'note'}] * 2
  assert step['tokens_per_s'] > 0
  assert step['rows'] == 8
  assert step['of_matmul'] > 0


def test_sections_run_in_turn_and_a_failure_does_not_end_them(
  tmp_path, monkeypatch, capsys
):
  started = []

  def process(argv, limit):
    name = argv[-1].removeprefix('--section=')
    started.append((name, limit))
    accelerator._append(tmp_path, {'section': name, 'name': 'x', 'ms': 1.5})
    return 'code 1: no memory' if name == 'kernels' else ''

  monkeypatch.setattr(accelerator, '_process', process)
  (tmp_path / accelerator.ROWS).write_text('of an earlier call\n')
  flags = [f'--out={tmp_path}', '--tiny', '--seconds=100']
  assert exits.call(accelerator.main, flags) == 0
  assert [name for name, _ in started] == [*sections.SECTIONS]
  # By hand: nothing takes any time here, so each has its share of all.
  limits = dict(started)
  assert limits['correctness'] == pytest.approx(25, abs=1)
  assert limits['peer'] == pytest.approx(100, abs=1)
  assert 'kernels: code 1: no memory' in capsys.readouterr().out
  rows = json.loads((tmp_path / accelerator.RESULTS).read_text())
  assert rows == _rows(tmp_path)
  assert {'section': 'kernels', 'failed': 'code 1: no memory'} in rows
  page = (tmp_path / accelerator.PAGE).read_text()
  assert '### kernels\n\n| name | ms |\n|---|---|\n| x | 1.5 |\n' in page
  assert '- failed: code 1: no memory\n' in page


def test_a_section_that_takes_too_long_is_stopped(monkeypatch):
  real = subprocess.run
  monkeypatch.setattr(
    subprocess, 'run', lambda line, **more: real(['sleep', '9'], **more)
  )
  assert accelerator._process(['--tiny'], 0.2) == 'stopped after 0 s'


def test_the_page_by_hand():
  rows = [
    {'section': 'step', 'note': 'H200'},
    {'section': 'step', 'name': 'moejax', 'rows': 16, 'failed': 'no | memory'},
    {
      'section': 'step',
      'name': 'moejax',
      'rows': 8,
      'tokens_per_s': 123456.7,
      'mfu': 0.4567,
    },
    {'section': 'step', 'seconds': 61.2},
  ]
  assert accelerator.page(rows) == (
    '### step\n\n'
    '| name | rows | tokens_per_s | mfu |\n'
    '|---|---|---|---|\n'
    '| moejax | 16 | - | - |\n'
    '| moejax | 8 | 123,457 | 0.457 |\n'
    '\n'
    '- note: H200\n'
    '- failed: no | memory\n'
    '- seconds: 61.2\n'
  )


def test_a_config_key_is_refused(tmp_path, capsys):
  flags = [f'--out={tmp_path}', '--config.seed=1']
  assert exits.call(accelerator.main, flags) == exits.BAD_INPUT
  assert 'takes no --config.*' in capsys.readouterr().err
