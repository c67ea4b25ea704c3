"""LatentMoE: routed experts stand between two matrices, all else does not."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import references, tiny
from helpers.balance import best, softmax

from moejax.core import errors
from moejax.moe import feed_forward, layer
from moejax.moe.config import MoEConfig
from moejax.moe.experts import EXPERTS
from moejax.moe.feed_forward import TokenInfo
from moejax.moe.routers import ROUTERS
from moejax.moe.scorers import SCORERS

D, Z, F, E, K = 6, 3, 4, 5, 2
CONFIG = MoEConfig(
  num_experts=E,
  expert_width=F,
  latent_width=Z,
  num_shared=1,
  router=ROUTERS['top_k'](k=K),
  balance=(),
)
X_BLD = np.random.default_rng(0).normal(size=(2, 8, D)).astype(np.float32)


def made(config):
  return tiny.module(
    lambda: layer.MoE(config, D, 1.0, tiny.mesh(), jax.random.key(0)), std=0.5
  )


@functools.partial(jax.jit, static_argnums=(0, 1))
def run(config, graph, weights, valid_BL=None):
  index_BL = jnp.arange(16).reshape(2, 8)
  valid_BL = index_BL >= 0 if valid_BL is None else valid_BL
  tokens = TokenInfo(valid_BL, index_BL, index_BL)
  moe = tiny.bind(graph, weights)
  return moe(X_BLD, tokens, feed_forward.no_previous_layer(config, 2, 8), None)[
    0
  ]


def test_it_is_the_sum_of_experts_of_the_projected_token():
  """Token by token; the router and the shared expert have all D dimensions."""
  graph, w = made(CONFIG)
  assert w['latent']['w_down_DZ'].shape == (D, Z)
  assert w['routed']['w_in_ED2F'].shape == (E, Z, 2, F)
  assert w['shared']['w_in_ED2F'].shape == (1, D, 2, F)
  got_BLD = run(CONFIG, graph, w)
  prob_TE = softmax(X_BLD.reshape(-1, D) @ w['router']['w_DE'])
  for x_D, prob_E, got_D in zip(
    X_BLD.reshape(-1, D), prob_TE, got_BLD.reshape(-1, D), strict=True
  ):
    z_Z = x_D @ w['latent']['w_down_DZ']
    sum_Z = sum(
      prob_E[e]
      * references.swiglu(
        w['routed']['w_in_ED2F'][e], w['routed']['w_out_EFD'][e], z_Z
      )
      for e in best(prob_E[None], K)[0]
    )
    shared = w['shared']['w_in_ED2F'][0], w['shared']['w_out_EFD'][0]
    want_D = sum_Z @ w['latent']['w_up_ZD'] + references.swiglu(*shared, x_D)
    np.testing.assert_allclose(got_D, want_D, rtol=1e-4, atol=1e-5)


def test_with_two_identity_matrices_it_is_the_layer_without():
  same = dataclasses.replace(CONFIG, latent_width=D)
  graph, w = made(same)
  w['latent'] = dict.fromkeys(w['latent'], np.eye(D, dtype=np.float32))
  plain = dataclasses.replace(CONFIG, latent_width=0)
  graph_plain, w_plain = made(plain)
  assert not w_plain.get('latent')
  w_plain = {**w_plain, **{k: w[k] for k in ('routed', 'router', 'shared')}}
  np.testing.assert_allclose(
    run(same, graph, w), run(plain, graph_plain, w_plain), rtol=1e-5, atol=1e-6
  )


def test_padding_gets_the_shared_expert_alone():
  graph, w = made(CONFIG)
  without = {**w, 'latent': jax.tree.map(np.zeros_like, w['latent'])}
  valid_BL = np.arange(16).reshape(2, 8) % 3 > 0
  got_BLD = np.asarray(run(CONFIG, graph, w, valid_BL))
  shared_BLD = np.asarray(run(CONFIG, graph, without, valid_BL))
  np.testing.assert_allclose(got_BLD[~valid_BL], shared_BLD[~valid_BL])
  assert (got_BLD[valid_BL] != shared_BLD[valid_BL]).any()


def test_a_scorer_that_multiplies_tokens_with_experts_is_refused():
  config = dataclasses.replace(
    CONFIG,
    scorer=SCORERS['expert_norm'](),
    experts=EXPERTS['autonomous_swiglu'](),
  )
  with pytest.raises(errors.InputError, match='latent_width=3'):
    config.check()
