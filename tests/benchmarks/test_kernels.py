"""The benchmark of implementations: it has them all, and they agree."""

import importlib.util

import jax
import numpy as np
import pytest
from helpers import shapes

from benchmarks import kernels, standard
from moejax.core import exits
from moejax.model.attention.dot_product import ATTENTIONS
from moejax.moe.compute.implementations import IMPLEMENTATIONS

RUN_HERE = {'blocked', 'ragged_dot', 'fused'}
if importlib.util.find_spec('tokamax'):
  RUN_HERE.add('tokamax')


@pytest.mark.slow
def test_kernels_are_the_tables_without_the_references(capsys, monkeypatch):
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
  assert all(float(line.split()[-2]) > 0 for line in out[1:])


def test_all_kernels_of_a_job_compute_the_same():
  found = kernels.kernels(shapes.SMALL.config, 4, 16)
  by_job = {}
  for kernel in found:
    value, gradients = kernel.run(*kernel.arguments)
    want = by_job.setdefault(kernel.job, (value, gradients))
    np.testing.assert_allclose(value, want[0], rtol=1e-4)
    for got, expected in zip(
      jax.tree.leaves(gradients), jax.tree.leaves(want[1]), strict=True
    ):
      np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4)
  assert set(by_job) == {'attention core', 'routed experts', 'head and loss'}
