import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core import log
from moejax.train import bad_steps


def test_norms_of_leaves_and_of_parts():
  gradient = {
    'a': {'b': {'c': jnp.full(9, 1.0), 'd': jnp.array([[0.0, 4.0]])}},
    'e': jnp.array([1.0, jnp.nan]),
    'f': jnp.array([1e30]),  # its square is more than float32 holds
  }
  names = bad_steps.names_of(gradient)
  assert names == ['a/b/c', 'a/b/d', 'e', 'f']
  norms = np.asarray(bad_steps.leaf_norms(gradient))
  np.testing.assert_array_equal(norms, [3.0, 4.0, np.nan, np.inf])
  found = bad_steps.describe(names, norms)
  assert found['leaves_not_finite'] == ['e', 'f']
  assert found['gradient_norms'] == {
    'a/b': 5.0,
    'e': pytest.approx(np.nan, nan_ok=True),
    'f': np.inf,
  }


@pytest.mark.parametrize(
  ('scalars', 'want'),
  [
    ({'bad_steps': 0.0}, (None, 0)),
    ({'bad_steps': 2.0, 'spikes_in_a_row': 1.0}, ('not finite', 2)),
    ({'bad_steps': 0.0, 'spikes_in_a_row': 3.0}, ('spike', 3)),
  ],
)
def test_why(scalars, want):
  assert bad_steps.why(scalars) == want


def test_a_line_is_written_for_bad_steps_alone_and_comes_back(tmp_path):
  writer = log.JsonlWriter(tmp_path / bad_steps.FILE)
  found = bad_steps.BadSteps(
    ['x/y', 'z'], seed=5, rows=lambda batch: {'code': [batch, 7]}, writer=writer
  )
  norms = np.array([np.inf, 2.0], np.float32)
  found.see(6, {'loss': 1.0, 'bad_steps': 0.0}, norms)
  assert not (tmp_path / bad_steps.FILE).exists()
  found.see(7, {'loss': np.nan, 'bad_steps': 1.0}, norms)
  writer.close()
  (line,) = log.read(tmp_path / bad_steps.FILE)
  assert np.isnan(line.pop('loss'))
  assert line == {
    'step': 7,
    'reason': 'not finite',
    'in_a_row': 1,
    'seed': 5,
    'batch': 6,
    'bad_steps': 1.0,
    'gradient_norms': {'x/y': np.inf, 'z': 2.0},
    'leaves_not_finite': ['x/y'],
    'rows': {'code': [6, 7]},
  }
