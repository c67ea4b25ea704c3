import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import references, tiny

from moejax.core import errors
from moejax.moe.feed_forwards import peer
from moejax.moe.feed_forwards.peer import PEER, PEERConfig
from moejax.moe.routes import RoutesRequest
from moejax.parallel import rules

B, L, D = 2, 5, 6
CONFIG = PEERConfig(num_keys=5, num_heads=3, k=4, key_width=8)
RNG = np.random.default_rng(0)
X_BLD = RNG.normal(size=(B, L, D)).astype(np.float32)
VALID_BL = np.array([[1, 1, 0, 1, 1], [1, 1, 1, 1, 0]], bool)

product_top_k = jax.jit(peer.product_top_k, static_argnums=2)


def test_the_worked_example():
  """Candidates (0,1)=1.9, (0,0)=1.3, (1,1)=1.1, (1,0)=.5: experts 1 and 0."""
  score_K, expert_K = product_top_k(
    np.array([1, 0.2, -0.5]), np.array([0.3, 0.9, 0]), 2
  )
  np.testing.assert_array_equal(expert_K, [1, 0])
  np.testing.assert_allclose(score_K, [1.9, 1.3], rtol=1e-6)
  np.testing.assert_allclose(
    jax.nn.softmax(score_K), [0.6457, 0.3543], atol=5e-5
  )


@pytest.mark.parametrize(('n', 'k'), [(5, 1), (5, 4), (9, 9), (20, 7)])
def test_product_keys_find_the_best_of_all(n, k):
  rng = np.random.default_rng(n)
  first, second = rng.normal(size=(2, 30, n)).astype(np.float32)
  score_TK, expert_TK = product_top_k(first, second, k)
  all_TE = (first[:, :, None] + second[:, None, :]).reshape(30, n * n)
  want_TK = np.argsort(-all_TE, axis=1, kind='stable')[:, :k]
  np.testing.assert_array_equal(expert_TK, want_TK)
  np.testing.assert_array_equal(
    score_TK, np.take_along_axis(all_TE, want_TK, 1)
  )


@functools.cache
def layer(config=CONFIG):
  make = lambda: PEER(config, D, 0.02, jax.random.key(0))
  return tiny.module(make, std=0.7)


@functools.partial(jax.jit, static_argnums=0)
def _apply(graph, w, x_BLD, valid_BL):
  return tiny.bind(graph, w).output(x_BLD, valid_BL)


def apply(x_BLD=X_BLD, config=CONFIG, valid_BL=VALID_BL):
  return np.asarray(_apply(*layer(config), x_BLD, valid_BL))


def by_loop(config, w, x_D):
  """One token: every head scores all n^2 experts; in float64."""
  w = {name: np.asarray(leaf, np.float64) for name, leaf in w.items()}
  n = config.num_keys
  out_D = np.zeros(D)
  for h in range(config.num_heads):
    first, second = (
      w['keys_2NK'][half] @ (x_D @ w['w_query_DH2K'][:, h, half])
      for half in range(2)
    )
    scores = [first[i] + second[j] for i in range(n) for j in range(n)]
    chosen = references.top(scores, config.k)
    kept = [scores[e] for e in chosen]
    if config.score == 'softmax':
      weights = references.softmax(kept)
    else:
      weights = [1 / (1 + np.exp(-s)) for s in kept]
    for e, weight in zip(chosen, weights, strict=True):
      h_e = w['u_ED'][e] @ x_D
      if config.activation == 'gelu':
        act = float(jax.nn.gelu(h_e, approximate=False))
      else:
        act = max(h_e, 0)
      out_D = out_D + weight * act * w['v_ED'][e]
  return out_D


@pytest.mark.parametrize(
  ('score', 'activation'), [('softmax', 'gelu'), ('sigmoid', 'relu')]
)
def test_it_is_the_loop_over_all_experts(score, activation):
  config = dataclasses.replace(CONFIG, score=score, activation=activation)
  out_BLD = apply(config=config)
  _, w = layer(config)
  for b, t in np.argwhere(VALID_BL):
    want_D = by_loop(config, w, X_BLD[b, t])
    np.testing.assert_allclose(out_BLD[b, t], want_D, rtol=1e-4, atol=1e-4)
  np.testing.assert_array_equal(out_BLD[~VALID_BL], 0)


def test_a_token_sees_no_other():
  out_BLD = apply()
  other_BLD = X_BLD.copy()
  other_BLD[:, 1] = 9
  other_BLD = apply(other_BLD)
  kept_L = np.arange(L) != 1
  np.testing.assert_allclose(
    other_BLD[:, kept_L], out_BLD[:, kept_L], rtol=1e-5, atol=1e-6
  )
  assert (other_BLD[:, 1] != out_BLD[:, 1]).any()


def test_gradients():
  """Those of all experts with a weight of zero where they are not chosen."""
  graph, w = layer()
  pull_BLD = RNG.normal(size=X_BLD.shape).astype(np.float32)

  def found(w, x_BLD):
    return jnp.vdot(tiny.bind(graph, w).output(x_BLD, VALID_BL), pull_BLD)

  def dense(w, x_BLD):
    query = jnp.einsum('BLD,DHGK->BLHGK', x_BLD, w['w_query_DH2K'])
    score = jnp.einsum('BLHGK,GNK->BLHGN', query, w['keys_2NK'])
    score = score[..., 0, :, None] + score[..., 1, None, :]
    score = score.reshape(B, L, CONFIG.num_heads, -1)
    least = jnp.sort(score, axis=-1)[..., -CONFIG.k, None]
    weight = jax.nn.softmax(jnp.where(score >= least, score, -1e9), axis=-1)
    act = jax.nn.gelu(x_BLD @ w['u_ED'].T, approximate=False)
    out_BLD = (weight.sum(axis=2) * act) @ w['v_ED']
    return jnp.vdot(jnp.where(VALID_BL[..., None], out_BLD, 0), pull_BLD)

  got, want = (
    jax.jit(jax.grad(f, argnums=(0, 1)))(w, X_BLD) for f in (found, dense)
  )
  tiny.assert_close(got, want, rtol=1e-3, atol=1e-4)


def test_gradients_of_zeros_are_finite():
  graph, w = layer()
  total = lambda w, x_BLD: jnp.sum(tiny.bind(graph, w).output(x_BLD, VALID_BL))
  got = jax.jit(jax.grad(total, argnums=(0, 1)))(w, np.zeros_like(X_BLD))
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(got))


def test_sizes_and_axes():
  assert CONFIG.num_experts == 25
  assert CONFIG.experts_per_token == 12
  made = PEER(CONFIG, D, 0.02, jax.random.key(0))
  for _, param in nnx.to_flat_state(nnx.state(made)):
    assert len(param.get_metadata()['axes']) == param[...].ndim
  assert made.u_ED.get_metadata()['axes'] == ('expert', 'embed')
  assert made.u_ED.shape == made.v_ED.shape == (25, D)


def test_bfloat16_keeps_scores_in_float32():
  graph, w = layer()
  x_BLD = jnp.asarray(X_BLD, jnp.bfloat16)
  assert _apply(graph, w, x_BLD, VALID_BL).dtype == jnp.bfloat16
  score_THK, _ = tiny.bind(graph, w).choose(x_BLD.reshape(-1, D))
  assert score_THK.dtype == jnp.float32


def test_on_a_mesh():
  """Tokens over data and experts, weights over experts and fsdp: the same."""
  config = dataclasses.replace(CONFIG, num_keys=4)
  graph, w = layer(config)
  mesh = tiny.mesh(8, data=2, fsdp=2, expert=2)
  made = nnx.eval_shape(lambda: PEER(config, D, 0.02, jax.random.key(0)))
  axes = {
    path[0]: param.get_metadata()['axes']
    for path, param in nnx.to_flat_state(nnx.state(made))
  }
  split = jax.device_put(w, rules.shardings(axes, w, mesh))
  x_BLD = np.concatenate([X_BLD] * 4)
  valid_BL = np.concatenate([VALID_BL] * 4)
  rows = rules.sharding(('batch',), mesh)
  got_BLD = _apply(
    graph, split, *jax.device_put((x_BLD, valid_BL), (rows, rows))
  )
  want_BLD = _apply(graph, w, x_BLD, valid_BL)
  np.testing.assert_allclose(got_BLD, want_BLD, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    (
      {'k': 6},
      'k=6 experts per head, but there are num_keys=5; use 1 to 5',
    ),
    ({'key_width': 7}, 'key_width=7 must be even: half for each key'),
  ],
)
def test_bad_fields(fields, message):
  with pytest.raises(errors.InputError) as error:
    dataclasses.replace(CONFIG, **fields).check()
  assert str(error.value) == message


def test_routes_are_the_experts_of_all_heads():
  """By a loop over tokens; entropies over all n^2 scores of a head."""
  graph, w = layer()
  request = RoutesRequest()
  run = jax.jit(
    lambda w, x_BLD: tiny.bind(graph, w).routes(x_BLD, VALID_BL, request)
  )
  found = run(w, X_BLD)
  assert found.expert_BLK.shape == (B, L, 12)
  assert not found.dropped_BLK.any()
  query_BLH2K = np.einsum('bld,dhgk->blhgk', X_BLD, w['w_query_DH2K'])
  half_BLH2N = np.einsum('blhgk,gnk->blhgn', query_BLH2K, w['keys_2NK'])
  score_BLHNN = half_BLH2N[..., 0, :, None] + half_BLH2N[..., 1, None, :]
  for row, token in np.ndindex(B, L):
    got = found.expert_BLK[row, token], found.weight_BLK[row, token]
    if not VALID_BL[row, token]:
      np.testing.assert_array_equal(got[0], -1)
      np.testing.assert_array_equal(got[1], 0)
      assert found.entropy_BL[row, token] == 0
      continue
    ranks, entropies = [], []
    for score_N in score_BLHNN[row, token].reshape(3, 25):
      best_K = np.argsort(-score_N, kind='stable')[:4]
      ranks += [*zip(references.softmax(score_N[best_K]), best_K, strict=True)]
      prob_N = references.softmax(score_N)
      entropies.append(-(prob_N * np.log(prob_N)).sum())
    ranks.sort(key=lambda rank: -rank[0])
    np.testing.assert_array_equal(got[0], [expert for _, expert in ranks])
    np.testing.assert_allclose(got[1], [gate for gate, _ in ranks], rtol=1e-4)
    np.testing.assert_allclose(
      found.entropy_BL[row, token], np.mean(entropies), rtol=1e-4
    )
