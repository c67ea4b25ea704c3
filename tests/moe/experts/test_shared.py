import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import references, tiny

from moejax.moe.experts.shared import SharedExperts
from moejax.moe.experts.swiglu import ClampedSwiGLU, SwiGLU

D, F, N = 4, 3, 2
RNG = np.random.default_rng(0)
X_TD = RNG.normal(size=(6, D)).astype(np.float32)


def weights(shared, experts):
  shapes = jax.eval_shape(
    lambda: {
      name: param[...]
      for name, param in shared.init(
        jax.random.key(0), experts, (D, N * F), 0.1
      ).items()
    }
  )
  return tiny.draw(shapes, seed=3, std=0.7)


@pytest.mark.parametrize('gate', [False, True])
def test_it_is_the_sum_of_the_experts_times_the_gate(gate):
  shared = SharedExperts(gate=gate)
  w = weights(shared, SwiGLU())
  assert ('w_gate_D' in w) == gate
  assert w['w_out_EFD'].shape == (1, N * F, D)
  out_TD = jax.jit(shared, static_argnums=1)(w, SwiGLU(), X_TD)
  for x_D, out_D in zip(X_TD, out_TD, strict=True):
    want_D = sum(
      references.swiglu(
        w['w_in_ED2F'][0][:, :, i * F : (i + 1) * F],
        w['w_out_EFD'][0][i * F : (i + 1) * F],
        x_D,
      )
      for i in range(N)
    )
    if gate:
      want_D = want_D / (1 + np.exp(-(x_D @ w['w_gate_D'])))
    np.testing.assert_allclose(out_D, want_D, rtol=1e-4, atol=1e-5)


def test_the_worked_gate():
  """x . w = 0.4 lets 0.598688 of the output through."""
  w = weights(SharedExperts(gate=True), SwiGLU())
  x_TD = np.array([[2.0, 0, 0, 0]], np.float32)
  w['w_gate_D'] = np.array([0.2, 5, 5, 5], np.float32)
  got_TD = SharedExperts(gate=True)(w, SwiGLU(), x_TD)
  all_TD = SharedExperts()(w, SwiGLU(), x_TD)
  np.testing.assert_allclose(got_TD / all_TD, 0.598688, rtol=1e-5)


def test_gate_in_bfloat16_is_computed_in_float32():
  """Many terms that bfloat16 would add up to another number."""
  wide = 512
  x_TD = jnp.ones((1, wide), jnp.bfloat16)
  experts = ClampedSwiGLU()
  shared = SharedExperts(gate=True)
  w = {
    name: jnp.full(param[...].shape, 2.0**-9, jnp.bfloat16)
    for name, param in shared.init(
      jax.random.key(0), experts, (wide, N * F), 0.1
    ).items()
  }
  out_TD = shared(w, experts, x_TD)
  assert out_TD.dtype == jnp.bfloat16
  plain_TD = SharedExperts()(w, experts, x_TD)
  ratio = np.asarray(out_TD, np.float32) / np.asarray(plain_TD, np.float32)
  np.testing.assert_allclose(ratio, 1 / (1 + np.exp(-1)), rtol=1e-2)


def test_starting_weights_do_not_depend_on_the_gate():
  plain, gated = (
    SharedExperts(gate=gate).init(
      jax.random.key(5), SwiGLU(), (64, N * 32), 0.02
    )
    for gate in (False, True)
  )
  for name, param in plain.items():
    np.testing.assert_array_equal(param[...], gated[name][...])
  assert gated['w_gate_D'].get_metadata()['axes'] == ('unsharded',)
  assert 0.01 < np.std(gated['w_gate_D'][...]) < 0.03
