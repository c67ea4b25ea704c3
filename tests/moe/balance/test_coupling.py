"""Expert-router coupling: who answers to which row of the router."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny
from helpers.balance import problem

from moejax.core import errors
from moejax.moe import feed_forward, layer
from moejax.moe.balance import BALANCE, responses
from moejax.moe.balance.coupling import Coupling
from moejax.moe.config import MoEConfig
from moejax.moe.experts import EXPERTS
from moejax.moe.feed_forward import TokenInfo
from moejax.moe.routers import ROUTERS
from moejax.moe.scorers import SCORERS

KEY = jax.random.key(2)
RNG = np.random.default_rng(0)
D, F, E = 6, 3, 4


def value(part, m_EE, num_tokens=3):
  given, routing = problem(
    np.full((num_tokens, len(m_EE)), 1 / len(m_EE)),
    np.zeros((num_tokens, 1), int),
  )
  given = dataclasses.replace(
    given, responses_EE=jnp.asarray(m_EE, jnp.float32)
  )
  return float(part.loss(part.observe(given, routing)))


def slow(m_EE, alpha):
  """Equation 3 as two loops."""
  size, total = len(m_EE), 0.0
  for i in range(size):
    for j in range(size):
      if i != j:
        total += max(m_EE[i][j] - alpha * m_EE[i][i], 0)
        total += max(m_EE[j][i] - alpha * m_EE[i][i], 0)
  return total / size**2


def test_the_loss_worked_by_hand():
  """M = [[2, 3], [1, 4]]; the diagonal is 2, 4.

  i = 0: max(3 - 2, 0) + max(1 - 2, 0) = 1; i = 1: max(1 - 4, 0) + max(3 - 4, 0)
  = 0; over 4. With alpha .5: (3 - 1) + 0 and 0 + (3 - 2), so 3 / 4.
  """
  m_EE = [[2.0, 3], [1, 4]]
  assert value(Coupling(), m_EE) == pytest.approx(1 / 4)
  assert value(Coupling(alpha=0.5), m_EE) == pytest.approx(3 / 4)
  assert value(Coupling(0.1), m_EE, 50) == pytest.approx(1 / 40)
  # Every expert answers to its own row most, and every row to its expert.
  assert value(Coupling(), [[3.0, 2], [1, 4]]) == 0


@pytest.mark.parametrize('alpha', [0.0, 0.7, 2.0])
def test_the_loss_equals_loops(alpha):
  m_EE = RNG.uniform(size=(E, E))
  want = slow(m_EE, alpha)
  assert value(Coupling(alpha=alpha), m_EE) == pytest.approx(want, rel=1e-5)


def test_responses_worked_by_hand():
  """Row (3, 4) through diag(1, 2) is (3, 8), of length sqrt(73)."""
  rows_ED = jnp.array([[3.0, 4.0], [1.0, 0.0]])
  w_EDF = jnp.array([[[1.0, 0], [0, 2]], [[0, 0], [0, 5]]])
  want_EE = [[np.sqrt(73), 20], [1, 0]]
  np.testing.assert_allclose(
    responses.matrix(rows_ED, w_EDF, None), want_EE, rtol=1e-6
  )


def test_noisy_rows_stay_nearer_to_their_own():
  """Numbers change by up to half the way to the nearest row; here by much."""
  rows_ED = RNG.normal(size=(5, 40)).astype(np.float32)
  rows_ED[1] = rows_ED[0] + 0.1 * RNG.normal(size=40)  # these two are near
  eye_EDF = np.tile(np.eye(40, dtype=np.float32), (5, 1, 1))
  half = lambda r, key: responses.matrix(r, eye_EDF, key) ** 2 / 2
  slopes = jax.jit(jax.jacfwd(half))
  noisy = lambda i: np.asarray(slopes(rows_ED, jax.random.key(i)))
  for i in range(3):
    # |R_i delta_i|^2 / 2 has the derivative R_i delta_i^2.
    slope_ED = noisy(i)[np.arange(5), 0, np.arange(5)]
    factor_ED = np.sqrt(slope_ED / rows_ED)
    got_ED = rows_ED * factor_ED
    apart_EE = np.linalg.norm(got_ED[:, None] - rows_ED, axis=-1)
    np.testing.assert_array_equal(np.argmin(apart_EE, axis=1), np.arange(5))
    assert np.abs(factor_ED[:2] - 1).max() < 0.1
    assert 0.3 < np.abs(factor_ED[2:] - 1).max() < 1


CONFIG = MoEConfig(
  num_experts=E,
  expert_width=F,
  router=ROUTERS['top_k'](k=2),
  balance=(BALANCE['coupling'](),),
)


def test_a_layer_gives_the_part_its_own_weights():
  """In evaluation without noise; the gradient is of rows and gates alone."""
  graph, w = tiny.module(
    lambda: layer.MoE(CONFIG, D, 1.0, tiny.mesh(), jax.random.key(0)), std=0.5
  )
  x_BLD = RNG.normal(size=(2, 8, D)).astype(np.float32)
  index_BL = jnp.arange(16).reshape(2, 8)
  tokens = TokenInfo(index_BL % 5 > 0, index_BL, index_BL)

  def loss(w, key=None):
    previous = feed_forward.no_previous_layer(CONFIG, 2, 8)
    _, _, record = tiny.bind(graph, w)(x_BLD, tokens, previous, key)
    return Coupling().loss(record.balance['coupling'])

  got, slope = jax.jit(jax.value_and_grad(loss))(w)
  rows_ED, w_EDF = w['router']['w_DE'].T, w['routed']['w_in_ED2F'][:, :, 0]
  m_EE = [[np.linalg.norm(row_D @ w_DF) for w_DF in w_EDF] for row_D in rows_ED]
  assert got == pytest.approx(slow(m_EE, 1.0), rel=1e-4)
  assert np.any(slope['router']['w_DE'] != 0)
  assert np.any(slope['routed']['w_in_ED2F'][:, :, 0] != 0)
  assert np.all(slope['routed']['w_in_ED2F'][:, :, 1] == 0)
  assert np.all(slope['routed']['w_out_EFD'] == 0)
  assert jax.jit(loss)(w, KEY) != pytest.approx(float(got), rel=1e-3)


@pytest.mark.parametrize(
  'changes',
  [
    {'scorer': SCORERS['cosine']()},
    {'experts': EXPERTS['two_matrix']()},
    {'latent_width': 3},
  ],
  ids=lambda changes: next(iter(changes)),
)
def test_what_has_no_rows_or_no_gates_is_refused(changes):
  CONFIG.check()
  with pytest.raises(errors.InputError, match='^balance.coupling needs a row'):
    dataclasses.replace(CONFIG, **changes).check()
