"""The benchmark of implementations: it has them all, and they agree."""

import importlib.util

import jax
import numpy as np
import pytest
from helpers import shapes

from benchmarks import kernels, standard, timing
from moejax.core import exits
from moejax.model.attention.dot_product import ATTENTIONS
from moejax.moe.compute.implementations import IMPLEMENTATIONS

RUN_HERE = {'blocked', 'ragged_dot', 'fused'}
if importlib.util.find_spec('tokamax'):
  RUN_HERE.add('tokamax')


@pytest.mark.soak
def test_kernels_are_the_tables_and_compute_the_same(capsys, monkeypatch):
  """All but the references are timed, and those of one job agree."""
  answers = []

  def run_once(parts, rounds):
    assert rounds == 1
    answers.extend(part.run(*part.arguments) for part in parts)
    return [0.002] * len(parts)

  monkeypatch.setattr(timing, 'best', run_once)
  monkeypatch.setattr(standard, 'STANDARD', shapes.SMALL)
  flags = ['--rounds=1', '--rows=4']
  assert exits.call(kernels.main, flags) == exits.DONE
  out = capsys.readouterr().out.splitlines()
  rows = [(line[:16].strip(), line[17:29].strip()) for line in out[1:]]
  assert rows == [
    *(('attention core', n) for n in ATTENTIONS if n != 'reference'),
    # batched is for equal groups, which dropless has not; megablox is for TPU.
    *(('routed experts', n) for n in IMPLEMENTATIONS if n in RUN_HERE),
    ('head and loss', 'in chunks'),
    ('head and loss', 'all at once'),
  ]
  assert all(line.endswith(' 2.0 ms') for line in out[1:])
  by_job = {}
  for (job, _), (value, gradients) in zip(rows, answers, strict=True):
    want = by_job.setdefault(job, (value, gradients))
    np.testing.assert_allclose(value, want[0], rtol=1e-4)
    for got, expected in zip(
      jax.tree.leaves(gradients), jax.tree.leaves(want[1]), strict=True
    ):
      np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4)
