import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import dense, tiny

from moejax.core import errors
from moejax.moe.routers import dselect_k
from moejax.moe.routers.dselect_k import DSelectK
from moejax.moe.scorers.base import ScorerInput

Z = np.array([[0.2, -0.6], [-0.1, 0.3]])
ALPHA = np.array([0.5, -0.5])


def given(code_TN, alpha_TK, num_experts=4, **more):
  """The layer's own logits are noise: they must not matter."""
  noise_TE = np.random.default_rng(0).normal(size=(len(code_TN), num_experts))
  extra = {
    'code': jnp.asarray(code_TN, jnp.float32),
    'alpha': jnp.asarray(alpha_TK, jnp.float32),
  }
  return tiny.router_input(noise_TE, extra_scores=extra, **more)


def gates(routing):
  return dense.numpy_gates(routing)


def reference(z_KM, alpha_K, num_experts, gamma=1.0):
  """One token: w, its entropy, and the mass on experts of each selector."""
  r_KE = np.ones((len(z_KM), num_experts))
  for i, z_M in enumerate(z_KM):
    for e in range(num_experts):
      for bit, z in zip(format(e, f'0{len(z_M)}b'), z_M, strict=True):
        if z <= -gamma / 2:
          s = 0.0
        elif z >= gamma / 2:
          s = 1.0
        else:
          s = -2 / gamma**3 * z**3 + 3 / (2 * gamma) * z + 0.5
        r_KE[i, e] *= s if bit == '1' else 1 - s
  share_K = np.exp(alpha_K) / np.exp(alpha_K).sum()
  entropy = -(r_KE * np.log(r_KE + 1e-6)).sum()
  return share_K @ r_KE, entropy, r_KE.sum(axis=1)


def test_the_worked_example():
  """S(.2) = -2 * .008 + .3 + .5 = .784; S(-.6) = 0; and so on."""
  np.testing.assert_allclose(
    dselect_k.smooth_step(jnp.asarray(Z), 1.0),
    [[0.784, 0], [0.352, 0.896]],
    atol=1e-6,
  )
  routing = tiny.route(DSelectK(k=2), given([Z.ravel()], [ALPHA]))
  w = [0.1760, 0.1561, 0.5830, 0.0848]
  np.testing.assert_allclose(gates(routing)[0], w, atol=6e-5)
  np.testing.assert_array_equal(routing.expert_A, [2, 0, 1, 3])
  np.testing.assert_allclose(
    routing.extra['selector_entropy_T'], 1.504252, atol=1e-5
  )
  np.testing.assert_array_equal(routing.extra['unreachable_T'], 0)
  np.testing.assert_allclose(routing.prob_TE[0], w, atol=6e-5)


@pytest.mark.parametrize(
  ('num_experts', 'k', 'gamma'), [(5, 2, 1.0), (8, 1, 0.5), (1, 1, 1.0)]
)
def test_random_codes_against_a_loop(num_experts, k, gamma):
  bits = dselect_k.num_bits(num_experts)
  assert 2 ** (bits - 1) < max(2, num_experts) <= 2**bits
  rng = np.random.default_rng(k)
  # float32 in both: which of the bits are decided must not differ.
  z_TKM = rng.normal(scale=0.4, size=(20, k, bits)).astype(np.float32)
  alpha_TK = rng.normal(size=(20, k)).astype(np.float32)
  router = DSelectK(k=k, gamma=gamma)
  router.check(num_experts)
  routing = tiny.route(
    router, given(z_TKM.reshape(20, -1), alpha_TK, num_experts)
  )
  found = [
    reference(z, a, num_experts, gamma)
    for z, a in zip(z_TKM, alpha_TK, strict=True)
  ]
  want_TE = np.stack([w for w, _, _ in found])
  np.testing.assert_allclose(gates(routing), want_TE, atol=1e-6)
  np.testing.assert_allclose(
    routing.extra['selector_entropy_T'], [e for _, e, _ in found], atol=1e-5
  )
  np.testing.assert_allclose(routing.prob_TE.sum(axis=1), 1, rtol=1e-5)
  mass_TK = np.maximum([m for _, _, m in found], dselect_k.LEAST_MASS)
  lossy = num_experts != 2**bits
  np.testing.assert_allclose(
    routing.extra['unreachable_T'], lossy * (1 / mass_TK).sum(1), rtol=1e-3
  )


def test_decided_bits_choose_at_most_k_experts():
  """Both selectors may name the same one: then it has all the weight."""
  z_TN = [[1, -1, 1, 1], [-1, -1, -1, -1]]
  routing = tiny.route(DSelectK(k=2), given(z_TN, [[0, 0], [3, 1]]))
  np.testing.assert_allclose(gates(routing), [[0, 0, 0.5, 0.5], [1, 0, 0, 0]])
  np.testing.assert_array_equal(
    np.asarray(routing.expert_A).reshape(4, 2).T, [[2, 3, 4, 4], [0, 4, 4, 4]]
  )
  np.testing.assert_allclose(routing.extra['selector_entropy_T'], 0, atol=1e-5)


def test_a_code_that_names_no_expert():
  """Three experts, code 11: no weight, even probabilities, a big penalty."""
  routing = tiny.route(DSelectK(k=1), given([[2, 2], [0, 0]], [[0], [0]], 3))
  np.testing.assert_array_equal(routing.expert_A[::2], 3)
  np.testing.assert_allclose(routing.prob_TE, 1 / 3, rtol=1e-6)
  np.testing.assert_allclose(
    routing.extra['unreachable_T'], [1000, 4 / 3], rtol=1e-5
  )


def test_gradients_are_finite_and_reach_codes_and_mixture():
  z_TN = np.array([[0.2, -0.6, 9, -9], [0.5, -0.5, 0, 0], [2, 2, 2, 2]])
  whole = given(z_TN, np.array([[0, 0], [1e4, -1e4], [0, 0.0]]), 3)

  def pulled(extra):
    routing = DSelectK(k=2)(dataclasses.replace(whole, extra_scores=extra))
    gate_TE = dense.gates(routing, 3, 3)
    extra = sum(x.sum() for x in routing.extra.values())
    return (
      jnp.sum(gate_TE * jnp.arange(3)) + routing.prob_TE[:, 1].sum() + extra
    )

  gradient = jax.jit(jax.grad(pulled))(whole.extra_scores)
  for g in gradient.values():
    assert np.isfinite(g).all()
    assert np.abs(g[0]).max() > 0
  # Beyond gamma / 2 a bit is decided: the step is flat.
  np.testing.assert_array_equal(gradient['code'][0, 1:], 0)


def test_a_bias_takes_experts_out():
  bias_E = np.array([-0.2, 0, 9, 0], np.float32)
  routing = tiny.route(
    DSelectK(k=2), given([Z.ravel()], [ALPHA], selection_bias_E=bias_E)
  )
  np.testing.assert_array_equal(routing.expert_A, [2, 1, 3, 4])


def test_heads_and_bad_fields():
  router = DSelectK(k=3)
  extra = router.extra_scorers(5)
  assert {name: num for name, (_, num) in extra.items()} == {
    'code': 9,
    'alpha': 3,
  }
  with pytest.raises(errors.InputError, match=r'^router\.k=5 '):
    DSelectK(k=5).check(4)


def test_every_selector_starts_undecided():
  """z is a sum of D products with weights below .01: of deviation
  .01 sqrt(D / 3) = .065 for D = 128, a bit of .5 + 1.5 z in [.3, .7] within two
  deviations. With the start of the other matrices, .5 here, bits are decided.
  """
  num_experts, width, router = 8, 128, DSelectK(k=2)
  x_TD = np.random.default_rng(0).normal(size=(200, width))
  z_TKM, bias = None, 0
  for name, (scorer, num) in router.extra_scorers(num_experts).items():
    w = {
      key: param[...]
      for key, param in scorer.init(jax.random.key(1), width, num, 0.5).items()
    }
    assert set(w) == {'w_DE', 'b_E'}
    seen = ScorerInput(jnp.asarray(x_TD, jnp.float32), jnp.arange(200))
    head = scorer(w, seen)
    if name == 'code':
      z_TKM = head.reshape(200, 2, 3)
    bias += np.abs(w['b_E']).sum()
  assert bias == 0
  r_TKE = np.asarray(dselect_k.codes(dselect_k.smooth_step(z_TKM, 1.0)))
  np.testing.assert_allclose(r_TKE.mean(axis=(0, 1)), 1 / 8, rtol=0.2)
  assert r_TKE.max() < 3 / 8
  assert r_TKE.min() > 1 / 40
