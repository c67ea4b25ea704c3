import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import dense, tiny

from moejax.core import errors
from moejax.moe.routers import noise
from moejax.moe.routers.dense_to_sparse import DenseToSparse

L0 = np.array([[2.0, 1, 0, -1], [0, 1, 2, 1.5], [1, 1.5, 0.5, 0]])
NOISE = np.array([[0.5, -0.5, 1, 0], [-1, 0.5, 0, 1], [0.2, -0.3, 0.1, 0.4]])
P0 = np.array([
  [0.6439, 0.2369, 0.0871, 0.0321],
  [0.0641, 0.1744, 0.4740, 0.2875],
  [0.2760, 0.4551, 0.1674, 0.1015],
])
KEY = jax.random.key(2)


@pytest.fixture
def drawn(monkeypatch):
  monkeypatch.setattr(noise, 'gumbel', lambda given, num: NOISE)


def route(router, logits_TE=L0, key=KEY, **more):
  # A function of its own, since the noise may be that of the example.
  run = jax.jit(lambda given: router(given))
  return jax.device_get(run(tiny.router_input(logits_TE, key=key, **more)))


def gates(routing):
  return dense.numpy_gates(routing)


def test_the_worked_example_hot(drawn):
  """Temperature 2: all four above c; weights without noise or temperature."""
  router = DenseToSparse(schedule='constant', start=2.0)
  np.testing.assert_allclose(gates(route(router)), P0, atol=5e-5)
  noisy = dataclasses.replace(router, use_gumbel_gates=True)
  np.testing.assert_allclose(
    gates(route(noisy)),
    [
      [0.4965, 0.1827, 0.2345, 0.0863],
      [0.0679, 0.2370, 0.3043, 0.3908],
      [0.2932, 0.2932, 0.2172, 0.1965],
    ],
    atol=6e-5,
  )


def test_the_worked_example_cold(drawn):
  """Temperature .3: expert 3 of token 0 and expert 0 of token 1 are out."""
  router = DenseToSparse(decay_steps=10)
  used_TE = np.array([[1, 1, 1, 0], [0, 1, 1, 1], [1, 1, 1, 1]])
  routing = route(router, steps=10.0)
  np.testing.assert_allclose(gates(routing), P0 * used_TE, atol=5e-5)
  np.testing.assert_allclose(routing.extra['gate_TE'], gates(routing))
  noisy = dataclasses.replace(router, use_gumbel_gates=True)
  np.testing.assert_allclose(
    gates(route(noisy, steps=25.0)),
    [[0.9920, 0.0013, 0.0067, 0], [0, 0.0291, 0.1542, 0.8166]]
    + [[0.4536, 0.4536, 0.0614, 0.0315]],
    atol=6e-5,
  )


def test_hard_from_a_step_on(drawn):
  """The largest of the noisy ones: 0, 3, and 0 before 1 at 1.2 each."""
  router = DenseToSparse(hard_from=100)
  assert (gates(route(router, steps=99.0)) > 0).sum() == 12
  hard = route(router, steps=100.0)
  best_TE = np.array([[1, 0, 0, 0], [0, 0, 0, 1], [1, 0, 0, 0]])
  np.testing.assert_allclose(gates(hard), P0 * best_TE, atol=5e-5)


def test_evaluation_is_top_1_without_noise():
  routing = route(DenseToSparse(), key=None)
  np.testing.assert_array_equal(routing.expert_A, [0, 2, 1])
  np.testing.assert_allclose(
    routing.weight_A, [0.6439, 0.4740, 0.4551], atol=5e-5
  )
  assert routing.per_token == 1
  warm = route(DenseToSparse(use_gumbel_gates=True), key=None, steps=0.0)
  e = np.exp(L0 / 2)
  np.testing.assert_allclose(
    warm.weight_A, (e / e.sum(1, keepdims=True)).max(1), rtol=1e-5
  )


def test_schedules():
  make = lambda schedule: DenseToSparse(schedule=schedule, decay_steps=100)
  at = lambda schedule: [
    float(make(schedule).temperature(n)) for n in (0.0, 50.0, 100.0, 500.0)
  ]
  middle = 2 * np.sqrt(0.3 / 2)
  np.testing.assert_allclose(at('exponential'), [2, middle, 0.3, 0.3], 1e-6)
  np.testing.assert_allclose(at('linear'), [2, 1.15, 0.3, 0.3], rtol=1e-6)
  np.testing.assert_allclose(at('constant'), [2, 2, 2, 2])
  assert make('linear').counts_steps


def test_fewer_experts_are_used_as_it_cools():
  logits_TE = np.random.default_rng(0).normal(size=(200, 8))
  router = DenseToSparse(decay_steps=100, end=0.05, threshold=0.01)
  used = [
    int((gates(route(router, logits_TE, steps=n)) > 0).sum())
    for n in (0.0, 40.0, 70.0, 100.0)
  ]
  assert used[0] > 1500
  assert used[0] > used[1] > used[2] > used[3]
  assert used[3] < 500


def test_a_bias_moves_the_choice_alone(drawn):
  """The largest stays even where a bias pushes all below the threshold."""
  out_E = np.full(4, -2.0, np.float32)
  routing = route(DenseToSparse(), selection_bias_E=out_E)
  best_TE = np.array([[1, 0, 0, 0], [0, 0, 0, 1], [1, 0, 0, 0]])
  np.testing.assert_allclose(gates(routing), P0 * best_TE, atol=5e-5)
  three_E = np.array([0, 0, 0, 1], np.float32)
  calm = route(DenseToSparse(), key=None, selection_bias_E=three_E)
  np.testing.assert_array_equal(calm.expert_A, [3, 3, 3])
  np.testing.assert_allclose(calm.weight_A, P0[:, 3], atol=5e-5)


def test_huge_logits_and_padding_have_finite_gradients():
  logits_TE = np.array([[1e4, -1e4, 0, 0], [0.0] * 4, [1e4, 1e4, 1, -1]])
  whole = tiny.router_input(logits_TE, valid_T=[True, True, False], key=KEY)

  def pulled(logits_TE):
    routing = DenseToSparse(use_gumbel_gates=True)(
      dataclasses.replace(whole, logits_TE=logits_TE)
    )
    return jnp.vdot(routing.weight_A, jnp.arange(12.0))

  gradient = jax.jit(jax.grad(pulled))(whole.logits_TE)
  assert np.isfinite(gradient).all()
  np.testing.assert_array_equal(gradient[2], 0)


def test_the_temperature_does_not_rise():
  with pytest.raises(errors.InputError, match=r'^end=3.0 must be at most st'):
    DenseToSparse(end=3.0)
