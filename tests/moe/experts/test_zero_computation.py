import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import dense, references, tiny

from moejax.moe.experts.zero_computation import ZeroComputation
from moejax.moe.routers.top_k import TopK

L0 = np.array([[2.0, 1, 0, -1], [0, 1, 2, 1.5], [1, 1.5, 0.5, 0]])
# MoE++'s gating residual: the previous layer's logits times W_g = 0.5 I.
BEFORE = np.array([[0, 1, 0, 1.0], [1, 0, 0, 0], [0, 0, 2, 0]])
X = np.arange(15.0).reshape(3, 5).astype(np.float32) - 6


def gates(routing):
  return dense.numpy_gates(routing)


def test_moe_plus_plus_by_hand():
  """Two experts, a copy, a zero. Token 0 takes the experts, token 1 copy and
  zero: .4551 x, token 2 expert 1 and the copy.
  """
  gate_TE = gates(tiny.route(TopK(k=2), tiny.router_input(L0 + 0.5 * BEFORE)))
  np.testing.assert_allclose(
    gate_TE,
    [[0.5483, 0.3325, 0, 0], [0, 0, 0.4551, 0.2760], [0, 0.3534, 0.3534, 0]],
    atol=5e-5,
  )
  y_TD = ZeroComputation(zero=1, copy=1)({}, jnp.asarray(X), gate_TE[:, 2:])
  np.testing.assert_allclose(
    y_TD, np.array([[0], [0.4551], [0.3534]]) * X, atol=1e-3
  )


def test_longcat_by_hand():
  """Two experts, two copies, raw softmax times 6: token 1 is 4.5688 x."""
  bias_E = np.array([0.1, 0, 0, 0], np.float32)
  routing = tiny.route(
    TopK(k=2, scale=6.0), tiny.router_input(L0, selection_bias_E=bias_E)
  )
  gate_TE = gates(routing)
  np.testing.assert_allclose(gate_TE[0], [3.8635, 1.4213, 0, 0], atol=1e-4)
  np.testing.assert_allclose(gate_TE[2], [1.6560, 2.7303, 0, 0], atol=1e-4)
  y_TD = ZeroComputation(copy=2)({}, jnp.asarray(X), gate_TE[:, 2:])
  np.testing.assert_allclose(y_TD[1], 4.5688 * X[1], rtol=1e-4)
  np.testing.assert_array_equal(np.asarray(y_TD)[[0, 2]], 0)


def test_all_three_kinds_in_their_order_against_a_loop():
  """Constants first, then copies, zeros last."""
  part = ZeroComputation(zero=1, copy=2, constant=2)
  assert part.num == 5
  rng = np.random.default_rng(0)
  w = {
    'v_CD': rng.normal(size=(2, 5)).astype(np.float32),
    'w_CD2': rng.normal(size=(2, 5, 2)).astype(np.float32),
  }
  gate_TZ = rng.normal(size=(3, 5)).astype(np.float32)
  want = np.zeros((3, 5))
  for t, (x, g) in enumerate(zip(X, gate_TZ, strict=True)):
    for c in (0, 1):
      a1, a2 = references.softmax(x @ w['w_CD2'][c])
      want[t] += g[c] * (a1 * x + a2 * w['v_CD'][c])
    want[t] += (g[2] + g[3]) * x
  y_TD = part(w, jnp.asarray(X), jnp.asarray(gate_TZ))
  np.testing.assert_allclose(y_TD, want, rtol=1e-5, atol=1e-5)
  half = part(w, jnp.asarray(X, jnp.bfloat16), jnp.asarray(gate_TZ))
  assert half.dtype == jnp.bfloat16
  np.testing.assert_allclose(
    np.asarray(half, np.float32), want, rtol=0.03, atol=0.05
  )


def test_weights_are_those_of_the_constants():
  part = ZeroComputation(constant=50)
  w = part.init(jax.random.key(0), 400)
  assert w['v_CD'][...].shape == (50, 400)
  assert abs(float(w['v_CD'][...].std()) - 1) < 0.02
  edge = float(jnp.abs(w['w_CD2'][...]).max())
  assert 0.049 < edge <= 0.05
  assert ZeroComputation(zero=1, copy=2).init(jax.random.key(0), 400) == {}


def test_gradients_are_finite_and_reach_everything():
  part = ZeroComputation(zero=1, constant=1)
  w = {'v_CD': jnp.ones((1, 5)), 'w_CD2': jnp.full((1, 5, 2), 1e3)}
  pulled = lambda w, x, g: (part(w, x, g) * jnp.arange(5.0)).sum()
  gradient = jax.jit(jax.grad(pulled, (0, 1, 2)))(
    w, jnp.asarray(X), jnp.full((3, 2), 0.3)
  )
  for g in jax.tree.leaves(gradient):
    assert np.isfinite(g).all()
  assert np.abs(gradient[2][:, 0]).min() > 0
  np.testing.assert_array_equal(gradient[2][:, 1], 0)


def test_the_share_that_computes():
  """MoE++'s complexity, tau N / (tau N + Z): 8 + 4 with tau .75 is 6 / 10."""
  part = ZeroComputation(zero=1, copy=1, constant=2)
  assert part.share(8, tau=0.75) == pytest.approx(0.6)
  assert ZeroComputation().share(8) == 1


def test_bad_input():
  with pytest.raises(ValueError, match='3 gates for 2'):
    ZeroComputation(zero=2)({}, jnp.asarray(X), jnp.zeros((3, 3)))
