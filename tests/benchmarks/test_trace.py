"""The benchmark of tracing, on a tiny model."""

import dataclasses
import re

import pytest
from helpers import tiny

from benchmarks import standard, trace
from moejax.core import exits
from moejax.model import build


@pytest.mark.soak
def test_the_ratio_of_both_sides_is_printed(capsys, monkeypatch):
  shape = dataclasses.replace(standard.STANDARD, config=tiny.MODEL, length=8)
  monkeypatch.setattr(standard, 'STANDARD', shape)
  weights = lambda model, _: tiny.weights(model)
  monkeypatch.setattr(build.Model, 'init', weights)
  code = exits.call(trace.main, ['--batches=2', '--rounds=1'])
  out, _ = capsys.readouterr()
  assert code == exits.DONE
  evaluation, tracing, ratio = out.splitlines()
  rate = lambda line: float(line.split()[1].replace(',', ''))
  assert (evaluation.split()[0], tracing.split()[0]) == (
    'evaluation',
    'tracing',
  )
  (got,) = re.findall(r'tracing / evaluation: ([\d.]+) of', ratio)
  assert abs(float(got) - rate(tracing) / rate(evaluation)) < 0.006
  assert '(512 tokens, ' in ratio
