"""Replay of another choice against loops: gates of top_k, a whole layer."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import references, tiny

from moejax.moe import decide, feed_forward, layer
from moejax.moe.config import MoEConfig
from moejax.moe.dispatchers import DISPATCHERS
from moejax.moe.feed_forward import TokenInfo
from moejax.moe.replay import NOWHERE, Replayed
from moejax.moe.routers.dense_to_sparse import DenseToSparse
from moejax.moe.routers.gshard import SECONDS, GShard
from moejax.moe.routers.hierarchical import Hierarchical
from moejax.moe.routers.top_k import TopK

T, E, K = 6, 5, 2
RNG = np.random.default_rng(0)
LOGITS_TE = RNG.normal(size=(T, E)).astype(np.float32)
# Neither the largest logits nor in their order; tokens 3 and 4 have fewer.
EXPERT_TK = np.array([
  [4, 0],
  [1, 3],
  [0, 2],
  [2, NOWHERE],
  [NOWHERE, NOWHERE],
  [3, 1],
])


def softmax(x):
  return np.exp(x) / np.exp(x).sum()


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


SETTINGS = [
  (TopK(k=K), lambda x, kept: softmax(x)[kept]),
  (
    TopK(k=K, renormalise=True, scale=2.5),
    lambda x, kept: 2.5 * softmax(x[kept]),
  ),
  (
    TopK(k=K, score='sigmoid', renormalise=True, scale=3.0),
    lambda x, kept: 3 * sigmoid(x[kept]) / sigmoid(x[kept]).sum(),
  ),
  (TopK(k=K, after=True), lambda x, kept: softmax(x[kept])),
  (TopK(k=K, score='sigmoid'), lambda x, kept: sigmoid(x[kept])),
]


@pytest.mark.parametrize(
  ('router', 'gates'), SETTINGS, ids=lambda x: getattr(x, 'score', None)
)
def test_live_weights_of_another_choice(router, gates):
  """A selection bias has no part in them; what is not there, neither."""
  inputs = tiny.router_input(
    LOGITS_TE,
    replayed=Replayed(jnp.asarray(EXPERT_TK)),
    selection_bias_E=jnp.array([9.0, 0, 0, 0, -9]),
  )
  routing = jax.jit(lambda inputs: decide.choose(router, inputs, E))(inputs)
  want_TK = np.zeros((T, K))
  for token, experts in enumerate(EXPERT_TK):
    kept = experts[experts != NOWHERE]
    if len(kept):
      want_TK[token, : len(kept)] = gates(LOGITS_TE[token], kept)
  np.testing.assert_allclose(
    routing.weight_A.reshape(K, T).T, want_TK, rtol=1e-5
  )


@pytest.mark.parametrize('second', sorted(SECONDS))
def test_a_second_choice_that_is_not_used_keeps_its_part_of_the_sum(second):
  """By hand, g = .06, .3, .1, .5, .04: token 0 goes to 2 alone, 1 to 2 and 4.

  The second choice of token 0 would be expert 3, so its gate is .1 / .6.
  """
  prob_TE = np.array([[0.06, 0.3, 0.1, 0.5, 0.04]] * 2, np.float32)
  inputs = tiny.router_input(
    np.log(prob_TE), replayed=Replayed(jnp.array([[2, NOWHERE], [2, 4]]))
  )
  router = GShard(second=SECONDS[second](), dropped_use_slot=False)
  routing = tiny.route(router, inputs)
  np.testing.assert_array_equal(routing.expert_A, [2, 2, E, 4])
  np.testing.assert_allclose(
    routing.weight_A, [0.1 / 0.6, 0.1 / 0.14, 0, 0.04 / 0.14], rtol=1e-5
  )


def test_hierarchical_weighs_the_recorded_experts_of_each_group():
  """By hand, groups {0, 1} and {2, 3} with scores 1 and 0.

  Token 0 has an expert of each group, each alone in its group; token 1 has both
  experts of group 1, whose logits differ by 5; token 2 has expert 1 alone.
  """
  router = Hierarchical(groups=2, k_outer=1, k_inner=2)
  inputs = tiny.router_input(
    np.array([[2.0, 1, 5, 0]] * 3),
    replayed=Replayed(jnp.array([[3, 0], [3, 2], [1, NOWHERE]])),
    extra_scores={'outer': jnp.array([[1.0, 0.0]] * 3)},
  )
  routing = tiny.route(router, inputs)
  np.testing.assert_array_equal(routing.expert_A, [3, 3, 1, 0, 2, 4])
  np.testing.assert_allclose(
    routing.weight_A, [0.2689, 0.0067, 1, 0.7311, 0.9933, 0], atol=5e-5
  )


WIDTH = 7
CONFIG = MoEConfig(num_experts=E, expert_width=4, router=TopK(k=K))


def outputs(config, replayed):
  """out_TD of a layer, its weights and its tokens, all tokens valid."""
  graph, weights = tiny.module(
    lambda: layer.MoE(config, WIDTH, 1.0, tiny.mesh(), jax.random.key(0)),
    std=0.5,
  )
  x_BLD = RNG.normal(size=(1, T, WIDTH)).astype(np.float32)
  index_BL = jnp.arange(T)[None]
  tokens = TokenInfo(index_BL >= 0, index_BL, index_BL, replayed=replayed)
  previous = feed_forward.no_previous_layer(config, 1, T)

  @jax.jit
  def run(weights, tokens):
    return tiny.bind(graph, weights)(x_BLD, tokens, previous, None)[0]

  return run(weights, tokens)[0], weights, x_BLD[0]


@pytest.mark.parametrize('drops', [False, True])
def test_a_layer_replays_recorded_weights_and_drops(drops):
  weight_TK = RNG.normal(size=(T, K)).astype(np.float32)
  dropped_TK = drops & (np.arange(T * K).reshape(T, K) % 3 == 0)
  config = CONFIG
  if drops:  # room for all
    capacity = DISPATCHERS['capacity'](factor=5.0)
    config = dataclasses.replace(CONFIG, dispatcher=capacity)
  replayed = Replayed(EXPERT_TK[None], weight_TK[None], dropped_TK[None])
  out_TD, weights, x_TD = outputs(config, replayed)
  want_TD = np.zeros((T, WIDTH))
  for token in range(T):
    for rank, expert in enumerate(EXPERT_TK[token]):
      if expert != NOWHERE and not dropped_TK[token, rank]:
        w_in, w_out = (
          weights['routed'][name][expert] for name in ('w_in_ED2F', 'w_out_EFD')
        )
        y_D = references.swiglu(w_in, w_out, x_TD[token])
        want_TD[token] += weight_TK[token, rank] * y_D
  np.testing.assert_allclose(out_TD, want_TD, rtol=1e-4, atol=1e-5)


def test_dense_to_sparse_counts_the_replayed_gates():
  """In training and in evaluation, for the paper's balance loss."""
  router = DenseToSparse()
  for key, replayed in (
    (jax.random.key(0), jnp.asarray(EXPERT_TK)),
    (None, jnp.asarray(EXPERT_TK[:, :1])),
  ):
    inputs = tiny.router_input(LOGITS_TE, key=key, replayed=Replayed(replayed))
    routing = tiny.route(router, inputs)
    prob_TE = np.exp(LOGITS_TE)
    prob_TE /= prob_TE.sum(axis=1, keepdims=True)
    used_TE = (np.asarray(replayed)[..., None] == np.arange(E)).any(axis=1)
    np.testing.assert_allclose(
      routing.extra['gate_TE'], np.where(used_TE, prob_TE, 0), rtol=1e-5
    )
