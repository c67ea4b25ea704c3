import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import dense, tiny

from moejax.core import errors
from moejax.moe.routers.remoe import ReMoE

# relu of it: the numbers of the example in the facts, L0 - .75.
LOGITS = np.array([
  [1.25, 0.25, -0.75, -1.75],
  [-0.75, 0.25, 1.25, 0.75],
  [0.25, 0.75, -0.25, -0.75],
  [-1.0, -2.0, -0.5, 0.0],
])


def gates(routing):
  return dense.numpy_gates(routing)


def test_by_hand():
  """Sparsity of the first three tokens 5 / 12; the fourth has no expert."""
  routing = tiny.route(ReMoE(), tiny.router_input(LOGITS))
  relu_TE = np.maximum(LOGITS, 0)
  np.testing.assert_allclose(gates(routing), relu_TE)
  np.testing.assert_allclose(routing.extra['relu_TE'], relu_TE)
  sent_TK = np.reshape(routing.expert_A, (4, 4)).T
  np.testing.assert_array_equal(
    sent_TK, [[0, 1, 4, 4], [2, 3, 1, 4], [1, 0, 4, 4], [4, 4, 4, 4]]
  )
  assert (relu_TE[:3] == 0).mean() == pytest.approx(0.416667, abs=1e-6)
  np.testing.assert_allclose(
    routing.prob_TE,
    [[1.25 / 1.5, 0.25 / 1.5, 0, 0]]
    + [[0, 0.25 / 2.25, 1.25 / 2.25, 0.75 / 2.25]]
    + [[0.25, 0.75, 0, 0], [0.25] * 4],
    rtol=1e-6,
  )


def test_the_gate_is_continuous_where_an_expert_comes_in():
  """Softmax of the top k jumps where two experts change places."""
  at = lambda x: gates(ReMoE()(tiny.router_input([[0.5, x, -1.0]])))
  np.testing.assert_allclose(at(1e-6), at(-1e-6), atol=2e-6)
  np.testing.assert_allclose(at(0.5 + 1e-6), at(0.5 - 1e-6), atol=3e-6)


def test_gradients_are_finite_and_only_from_used_experts():
  valid_T = np.array([True, True, False, True])
  whole = tiny.router_input(LOGITS, valid_T=valid_T)

  def pulled(logits_TE):
    routing = ReMoE()(dataclasses.replace(whole, logits_TE=logits_TE))
    gate_TE = dense.gates(routing, 4, 4)
    both_TE = gate_TE + routing.prob_TE * np.array([[9], [0], [0], [9]])
    return jnp.sum(both_TE * jnp.arange(1.0, 5.0))

  gradient = np.asarray(jax.jit(jax.grad(pulled))(whole.logits_TE))
  used_TE = (LOGITS > 0) & valid_T[:, None]
  assert np.isfinite(gradient).all()
  np.testing.assert_array_equal(gradient[~used_TE], 0)
  np.testing.assert_allclose(gradient[1], [0, 2, 3, 4])


def test_a_bias_takes_experts_out_and_brings_none_in():
  bias_E = np.array([-0.3, 0, 9, 0], np.float32)
  routing = tiny.route(
    ReMoE(), tiny.router_input(LOGITS, selection_bias_E=bias_E)
  )
  want = np.maximum(LOGITS, 0)
  want[2, 0] = 0  # .25 - .3
  np.testing.assert_allclose(gates(routing), want)
  assert (np.asarray(routing.expert_A) < 4).sum() == (want > 0).sum()


def test_more_experts_than_there_are():
  with pytest.raises(errors.InputError, match=r'^router\.k=4.5 '):
    ReMoE(k=4.5).check(4)
