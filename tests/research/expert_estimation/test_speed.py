"""The benchmark of the theory lab: a row for each setting, and their sum."""

import re

import numpy as np
import pytest

from moejax.core import exits
from moejax.research.expert_estimation import results, speed, trials


def test_a_row_for_each_setting_and_their_sum(capsys, monkeypatch):
  """The estimators are tested where they are, and are replaced here."""
  asked = []

  def run(case, name, size, request, reference):
    asked.append((case.loss, size, request.trials))
    rows = [{'iterations': 10 * size, 'converged': size > 100}] * 2
    return {'rows': rows}

  monkeypatch.setattr(trials, 'run', run)
  monkeypatch.setattr(results, 'nearest', lambda case, _: (case.truth, None))
  clock = iter(np.arange(100) ** 2)
  monkeypatch.setattr(speed.time, 'process_time', lambda: next(clock))
  flags = ['--trials=2', '--sizes=100,200']
  assert exits.call(speed.main, flags) == exits.DONE
  assert asked == [
    (loss, size, 2) for loss in ('D1', 'D2', 'D3', 'D4') for size in (100, 200)
  ]
  out, _ = capsys.readouterr()
  lines = out.splitlines()
  assert [line.split()[0] for line in lines[1:6]] == [
    'softmax_relu',
    'softmax_linear',
    'sigmoid_sparse',
    'sigmoid_dense',
    'all',
  ]
  # Squares of 0 and 1, of 2 and 3, and so on: 1, 5, 9 and 13 seconds.
  assert [line.split()[2] for line in lines[1:6]] == [
    '1.0',
    '5.0',
    '9.0',
    '13.0',
    '28.0',
  ]
  # 2 trials of 100 samples in 1,000 iterations, and of 200 in 2,000.
  assert lines[1].split()[3:] == ['1500', '50%', '1000']
  (ratio,) = re.findall(r'processor seconds / 1200: ([\d.]+)$', out.strip())
  assert float(ratio) == pytest.approx(28 / 1200, abs=6e-4)


def test_flags_are_checked_before_any_work(capsys):
  assert exits.call(speed.main, ['--sizes=20']) == exits.BAD_INPUT
  assert '--sizes=20 is too small' in capsys.readouterr().err
  flags = ['--config.x=1', '--sizes=20']
  assert exits.call(speed.main, flags) == exits.BAD_INPUT
  assert '--config.x: this command has no config' in capsys.readouterr().err
