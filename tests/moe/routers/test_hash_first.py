import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import dense, tiny

from moejax.core import errors
from moejax.moe.balance.load import SequenceLevel
from moejax.moe.routers import scores
from moejax.moe.routers.hash_first import HashFirst

L0 = np.array([[2.0, 1, 0, -1], [0, 1, 2, 1.5], [1, 1.5, 0.5, 0]])
TOKEN_T = np.array([11, 4, 11])
BIAS_E = np.array([0, 0, 0, 0.6], np.float32)


def given(logits_TE=L0, **more):
  return tiny.router_input(logits_TE, token_T=TOKEN_T, **more)


def gates(routing):
  return dense.numpy_gates(routing)


def test_scores_and_learned_layers_by_hand():
  """sqrt(ln(1 + e^2)) = sqrt(2.1269) = 1.4584, and so on; b = .6 brings
  expert 3 in: .5597 + .6 is more than 1.1460. Kept 1.4584 and .5597, times 1.5
  over their sum: 1.0840 and .4160.
  """
  score_TE = scores.sqrt_softplus(jnp.asarray(L0))[0]
  np.testing.assert_allclose(
    score_TE,
    [
      [1.4584, 1.1460, 0.8326, 0.5597],
      [0.8326, 1.1460, 1.4584, 1.3044],
      [1.1460, 1.3044, 0.9870, 0.8326],
    ],
    atol=5e-5,
  )
  routing = tiny.route(HashFirst(), given(layer=3, selection_bias_E=BIAS_E))
  np.testing.assert_allclose(
    gates(routing),
    [[1.0840, 0, 0, 0.4160], [0, 0, 0.7918, 0.7082], [0, 0.9156, 0, 0.5844]],
    atol=5e-5,
  )
  share_TE = score_TE / score_TE.sum(axis=1, keepdims=True)
  np.testing.assert_allclose(routing.prob_TE, share_TE, rtol=1e-6)


def test_weights_of_given_ids_by_hand():
  score_TE, _ = scores.sqrt_softplus(jnp.asarray(L0))
  np.testing.assert_allclose(
    HashFirst().gates(score_TE, jnp.array([[0, 3], [1, 2], [0, 1]])),
    [[1.0840, 0.4160], [0.6600, 0.8400], [0.7015, 0.7985]],
    atol=5e-5,
  )


def test_first_layers_choose_by_id_and_still_learn_weights():
  """Neither logits nor bias move the choice; logits move the weights."""
  router = HashFirst(num_hash_layers=2)
  for layer in (0, 1):
    routing = tiny.route(router, given(layer=layer, selection_bias_E=BIAS_E))
    other = tiny.route(router, given(-L0, layer=layer))
    np.testing.assert_array_equal(routing.expert_A, other.expert_A)
    chosen = np.reshape(routing.expert_A, (2, 3)).T
    np.testing.assert_array_equal(chosen[0], chosen[2])
    assert not np.allclose(routing.weight_A, other.weight_A)
    np.testing.assert_allclose(gates(routing).sum(axis=1), 1.5, rtol=1e-6)
  learned = tiny.route(router, given(layer=2))
  np.testing.assert_array_equal(
    np.sort(np.reshape(learned.expert_A, (2, 3)).T), [[0, 1], [2, 3], [0, 1]]
  )


@pytest.mark.parametrize('layer', [0, 3])
def test_the_sequence_loss_counts_neither_bias_nor_hash(layer):
  """The means of s over its sum are .2696 .2780 .2490 .2034. The two largest
  s are {0, 1} {2, 3} {1, 0}, so f = 4/6 (2 2 1 1), and the loss is 4/6 of
  1.0952 + .4524. What the bias chooses has f = 4/6 (1 1 1 3): .938.
  """
  part = SequenceLevel(alpha=1.0)
  seen = given(layer=layer, selection_bias_E=BIAS_E)
  routing = tiny.route(HashFirst(), seen)
  loss = part.loss(part.observe(seen, routing))
  assert float(loss) == pytest.approx(1.0317359, abs=1e-6)


def test_the_layer_may_be_traced():
  """As in a scan over layers."""
  route = jax.jit(lambda layer: HashFirst()(given(layer=layer)).expert_A)
  for layer in (2, 3):
    np.testing.assert_array_equal(
      route(layer), tiny.route(HashFirst(), given(layer=layer)).expert_A
    )


def test_huge_logits_have_finite_gradients():
  logits_TE = np.array([[-1e4, -1e4, -200, -100], [1e4, -1e4, 0, 90]])
  whole = tiny.router_input(logits_TE, token_T=np.array([1, 2]), layer=9)

  def pulled(logits_TE):
    routing = HashFirst()(dataclasses.replace(whole, logits_TE=logits_TE))
    return jnp.vdot(routing.weight_A, jnp.arange(4.0)) + routing.prob_TE[0, 1]

  value, gradient = jax.jit(jax.value_and_grad(pulled))(whole.logits_TE)
  assert np.isfinite(value)
  assert np.isfinite(gradient).all()


def test_more_experts_than_there_are():
  with pytest.raises(errors.InputError, match=r'^router\.\w+='):
    HashFirst(k=5).check(4)
