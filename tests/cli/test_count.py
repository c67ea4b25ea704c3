"""The count command: what it prints, and what it must not import."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from moejax.cli import count
from moejax.core import exits

ROOT = pathlib.Path(__file__).parents[2]
DS_2B = str(ROOT / 'configs' / 'ds_2b.py')


def test_the_table_has_the_papers_figures(capsys):
  count.main([f'--config={DS_2B}'])
  lines = [
    ' '.join(line.split()) for line in capsys.readouterr().out.split('\n')
  ]
  assert 'routed experts 1,857,219,840 206,357,760' in lines
  assert 'all parts 1,967,403,520 316,541,440' in lines
  assert 'without routers and norms 1.967B total, 0.316B active' in lines
  assert 'per sequence of 2048 tokens 4.331T' in lines
  assert 'float32 parameters + AdamW 21.99 GiB' in lines


def test_a_large_model_is_told_in_billions(capsys):
  count.main([f'--config={ROOT / "configs" / "ds_145b.py"}'])
  out = ' '.join(capsys.readouterr().out.split())
  assert 'parameters 144.613B total, 22.187B active' in out
  assert 'per sequence of 4096 tokens 585.297T' in out


def test_json_and_overrides(capsys):
  count.main([f'--config={DS_2B}', '--json'])
  whole = json.loads(capsys.readouterr().out)
  assert whole['total'] == 1_967_403_520
  assert (
    sum(part['total'] for part in whole['parts'].values()) == whole['total']
  )
  assert whole['flops_per_token'] * 2048 == whole['flops_per_sequence']
  assert whole['training_bytes'] == 12 * whole['total']
  count.main([
    f'--config={DS_2B}',
    '--json',
    '--config.model.moe.router.k=3',
    '--config.data.sequence_length=1024',
  ])
  half = json.loads(capsys.readouterr().out)
  assert half['total'] == whole['total']
  fewer = 9 * 4 * 3 * 1280 * 853
  assert whole['active'] - half['active'] == fewer
  assert half['sequence_length'] == 1024
  less = 3 * (2 * fewer + 4 * 1024 * 1280 * 9)
  assert whole['flops_per_token'] - half['flops_per_token'] == less
  assert half['flops_per_token'] * 1024 == half['flops_per_sequence']


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--config=configs/ds_3b.py'], 'ds_2b'),
    ([f'--config={DS_2B}', '--config.model.widht=8'], 'model.width'),
    ([f'--config={DS_2B}', '--config.model.moe.router.k=64'], 'k=64'),
    ([], '--config'),
  ],
)
def test_bad_input_is_one_line(flags, message, capsys, monkeypatch):
  monkeypatch.chdir(ROOT)
  assert exits.call(count.main, flags) == exits.BAD_INPUT
  (line,) = capsys.readouterr().err.splitlines()
  assert message in line


def test_it_needs_neither_tensorflow_nor_memory():
  # Experts that would fill seven terabytes.
  many = '--config.model.moe.num_experts=63000'
  code = (
    'import sys\n'
    'from moejax.cli import count\n'
    f'count.main(["--config={DS_2B}", "{many}"])\n'
    'wrong = {"tensorflow", "seqio", "torch"} & set(sys.modules)\n'
    'assert not wrong, wrong\n'
  )
  done = subprocess.run(
    [sys.executable, '-c', code],
    check=True,
    capture_output=True,
    text=True,
    env={**os.environ, 'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT)},
  )
  assert '1,857,219,840,000' in done.stdout
