"""The whole layer against loops over tokens and experts."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import dense, references, tiny

from moejax.core import errors
from moejax.moe import balance, decide, feed_forward, layer
from moejax.moe.balance import gshard as gshard_aux
from moejax.moe.balance import load, switch
from moejax.moe.config import MoEConfig
from moejax.moe.dispatchers import capacity
from moejax.moe.experts.zero_computation import ZeroComputation
from moejax.moe.feed_forward import TokenInfo
from moejax.moe.routers import gshard, top_k
from moejax.moe.scorers import cosine

WIDTH = 10
CONFIG = MoEConfig(
  num_experts=5,
  expert_width=6,
  num_shared=2,
  router=top_k.TopK(k=2),
  balance=(load.ExpertLevel(1.0), load.DeviceLevel(1.0, 5)),
)
# Two rows of eight tokens; the last three of the second are padding.
VALID_BL = np.arange(16).reshape(2, 8) < 13
X_BLD = np.random.default_rng(1).normal(size=(2, 8, WIDTH)).astype(np.float32)


def make(config=CONFIG, mesh=None):
  mesh = tiny.mesh() if mesh is None else mesh
  return tiny.module(
    lambda: layer.MoE(config, WIDTH, 1.0, mesh, jax.random.key(0)), std=0.5
  )


def call(graph, weights, x_BLD, key=None, valid_BL=VALID_BL):
  shape = x_BLD.shape[:2]
  index_BL = jnp.arange(x_BLD.shape[0] * x_BLD.shape[1], dtype=jnp.int32)
  index_BL = index_BL.reshape(shape)
  tokens = TokenInfo(jnp.asarray(valid_BL), index_BL, index_BL % 7)
  moe = tiny.bind(graph, weights)
  previous = feed_forward.no_previous_layer(moe.config, *shape)
  out_BLD, _, record = moe(x_BLD, tokens, previous, key)
  return out_BLD, record


@pytest.fixture(scope='module')
def made():
  return make()


@pytest.fixture(scope='module')
def jitted(made):
  graph, _ = made
  return jax.jit(functools.partial(call, graph))


def by_loops(weights, x_BLD=X_BLD, valid_BL=VALID_BL, config=CONFIG):
  tokens = zip(
    x_BLD.reshape(-1, x_BLD.shape[-1]).astype(np.float64),
    valid_BL.reshape(-1),
    strict=True,
  )
  return [
    references.deepseek_moe(
      weights, x_D, config.router.k, config.num_shared, valid=valid
    )
    for x_D, valid in tokens
  ]


def test_layer_is_the_papers_formula(made, jitted):
  _, weights = made
  out_BLD, _ = jitted(weights, X_BLD)
  want_TD = np.stack([out_D for out_D, _, _ in by_loops(weights)])
  assert out_BLD.dtype == jnp.float32
  np.testing.assert_allclose(
    out_BLD.reshape(-1, WIDTH), want_TD, rtol=1e-5, atol=1e-5
  )


def test_route_alone_decides_what_the_layer_computes():
  """Each token's sum over the assignments that are left within capacity."""
  config = dataclasses.replace(
    CONFIG, num_shared=0, dispatcher=capacity.Capacity(factor=0.6)
  )
  graph, weights = make(config)
  index_BL = jnp.arange(16, dtype=jnp.int32).reshape(2, 8)
  tokens = TokenInfo(jnp.asarray(VALID_BL), index_BL, index_BL % 7)
  x_TD = X_BLD.reshape(-1, WIDTH)

  @jax.jit
  def run(weights):
    arrays = tiny.bind(graph, weights).weights(jnp.float32, None)
    return decide.route(config, arrays, x_TD, tokens)

  decision = jax.device_get(run(weights))
  out_BLD, record = jax.jit(functools.partial(call, graph))(weights, X_BLD)
  want_TD = np.zeros_like(x_TD)
  limited = decision.limited
  for token, expert, weight in zip(
    limited.token_A, limited.expert_A, limited.weight_A, strict=True
  ):
    if expert < 5:
      w_in, w_out = (
        weights['routed'][name][expert] for name in ('w_in_ED2F', 'w_out_EFD')
      )
      want_TD[token] += weight * references.swiglu(w_in, w_out, x_TD[token])
  np.testing.assert_allclose(
    out_BLD.reshape(-1, WIDTH), want_TD, rtol=1e-5, atol=1e-5
  )
  asked, sent = (
    np.sum(routing.expert_A < 5) for routing in (decision.routing, limited)
  )
  assert asked == 2 * VALID_BL.sum() > sent
  assert record.stats['dropped'].value() == pytest.approx(1 - sent / asked)


def test_gradients_are_those_of_a_dense_masked_sum(made):
  graph, weights = made
  pull_BLD = np.random.default_rng(2).normal(size=X_BLD.shape)

  def routed(weights, x_BLD):
    return jnp.vdot(call(graph, weights, x_BLD)[0], pull_BLD)

  def reference(weights, x_BLD):
    x_TD = x_BLD.reshape(-1, WIDTH)
    out_TD = dense.deepseek_moe(
      weights, x_TD, CONFIG.router.k, jnp.asarray(VALID_BL).reshape(-1)
    )
    return jnp.vdot(out_TD, pull_BLD.reshape(-1, WIDTH))

  got, want = (
    jax.jit(jax.grad(f, argnums=(0, 1)))(weights, X_BLD)
    for f in (routed, reference)
  )
  tiny.assert_close(got, want, rtol=2e-5, atol=2e-5)


def test_padding_gets_the_shared_experts_alone(made, jitted):
  _, weights = made
  out_BLD, record = jitted(weights, X_BLD)
  shared = by_loops(weights, valid_BL=np.zeros_like(VALID_BL))
  want_TD = np.stack([out_D for out_D, _, _ in shared])
  padding_T = ~VALID_BL.reshape(-1)
  np.testing.assert_allclose(
    out_BLD.reshape(-1, WIDTH)[padding_T],
    want_TD[padding_T],
    rtol=1e-5,
    atol=1e-5,
  )
  sums = record.balance['expert_level']
  assert sums['tokens'] == 13
  assert sums['count_E'].sum() == 13 * 2


def test_what_padding_holds_changes_nothing_else(made, jitted):
  _, weights = made
  out_BLD, record = jitted(weights, X_BLD)
  other_BLD = np.where(VALID_BL[..., None], X_BLD, 100.0).astype(np.float32)
  got_BLD, got = jitted(weights, other_BLD)
  np.testing.assert_array_equal(got_BLD[VALID_BL], out_BLD[VALID_BL])
  tiny.assert_close(got, record, rtol=0, atol=0)


def test_counts_probabilities_and_gates_are_the_loops(made, jitted):
  _, weights = made
  _, record = jitted(weights, X_BLD)
  tokens = by_loops(weights)
  count_E = np.zeros(5)
  for _, chosen, gates in tokens:
    for i in chosen:
      count_E[i] += 1
    # Not renormalised: the kept gates leave out the other experts' share.
    assert sum(gates) < 0.999
  for name in ('expert_level', 'device_level'):
    np.testing.assert_array_equal(record.balance[name]['count_E'], count_E)
  x_TD = X_BLD.reshape(-1, WIDTH)[VALID_BL.reshape(-1)]
  prob_TE = [
    references.softmax(x_D @ weights['router']['w_DE']) for x_D in x_TD
  ]
  np.testing.assert_allclose(
    record.balance['expert_level']['prob_E'], np.sum(prob_TE, 0), rtol=1e-5
  )


def test_no_token_is_dropped_when_all_choose_the_same(made, jitted):
  _, weights = made
  # All logits are 0, so all choose experts 0 and 1 with gates of 1/5.
  weights = {**weights, 'router': {'w_DE': np.zeros((WIDTH, 5), np.float32)}}
  out_BLD, record = jitted(weights, X_BLD)
  np.testing.assert_array_equal(
    record.balance['expert_level']['count_E'], [13, 13, 0, 0, 0]
  )
  assert record.stats['dropped'].value() == 0
  want_TD = np.stack([out_D for out_D, _, _ in by_loops(weights)])
  np.testing.assert_allclose(
    out_BLD.reshape(-1, WIDTH), want_TD, rtol=1e-5, atol=1e-5
  )


def test_shared_experts_are_added_with_weight_one(made, jitted):
  graph, weights = made
  alone = {
    **weights,
    'routed': jax.tree.map(np.zeros_like, weights['routed']),
  }
  both_BLD, _ = jitted(weights, X_BLD)
  shared_BLD, _ = jitted(alone, X_BLD)
  none = {**weights, 'shared': jax.tree.map(np.zeros_like, weights['shared'])}
  routed_BLD, _ = jitted(none, X_BLD)
  np.testing.assert_allclose(both_BLD, shared_BLD + routed_BLD, atol=1e-5)
  want_TD = dense.experts(
    weights['shared'], X_BLD.reshape(-1, WIDTH), jnp.ones((16, 1))
  )
  np.testing.assert_allclose(
    shared_BLD.reshape(-1, WIDTH), want_TD, rtol=1e-5, atol=1e-5
  )


def test_the_router_is_float32_when_all_else_is_bfloat16(made, jitted):
  _, weights = made
  x_BLD = jnp.asarray(X_BLD, jnp.bfloat16)
  out_BLD, record = jitted(weights, x_BLD)
  assert out_BLD.dtype == jnp.bfloat16
  exact = np.asarray(x_BLD.astype(jnp.float32))
  prob_TE = [
    references.softmax(x_D @ weights['router']['w_DE'])
    for x_D in exact.reshape(-1, WIDTH)[VALID_BL.reshape(-1)].astype(np.float64)
  ]
  sums = record.balance['expert_level']
  assert sums['prob_E'].dtype == jnp.float32
  # Logits rounded to bfloat16 would be off by 4e-3.
  np.testing.assert_allclose(sums['prob_E'], np.sum(prob_TE, 0), rtol=2e-6)
  want_TD = np.stack([out_D for out_D, _, _ in by_loops(weights, exact)])
  np.testing.assert_allclose(
    out_BLD.reshape(-1, WIDTH).astype(jnp.float32),
    want_TD,
    rtol=0.05,
    atol=0.02 * np.abs(want_TD).max(),
  )


def test_without_shared_experts_there_are_no_weights_for_them():
  config = dataclasses.replace(CONFIG, num_shared=0)
  graph, weights = make(config)
  assert set(weights) == {'router', 'routed'}
  out_BLD, _ = jax.jit(functools.partial(call, graph))(weights, X_BLD)
  assert (out_BLD.reshape(-1, WIDTH)[~VALID_BL.reshape(-1)] == 0).all()


def test_a_copy_of_a_token_whose_gate_scales_the_input_is_gated():
  """Llama 4's gate on a choice without computation: g x, not x."""
  config = dataclasses.replace(
    CONFIG,
    num_shared=0,
    router=top_k.TopK(k=1, score='sigmoid', scales_input=True),
    zero_computation=ZeroComputation(copy=1),
    balance=(),
  )
  graph, weights = make(config)
  w_DE = np.zeros((WIDTH, 6), np.float32)
  w_DE[0, 5] = 1  # the copy wins wherever the first feature is positive
  x_BLD = np.abs(X_BLD)
  out_BLD, _ = jax.jit(functools.partial(call, graph))(
    {**weights, 'router': {'w_DE': w_DE}}, x_BLD
  )
  gate_BL1 = 1 / (1 + np.exp(-x_BLD[..., :1]))
  np.testing.assert_allclose(
    out_BLD[VALID_BL], (gate_BL1 * x_BLD)[VALID_BL], rtol=1e-5
  )


MESH_CASES = {
  'deepseek': (CONFIG, None),
  'gshard': (
    dataclasses.replace(
      CONFIG,
      router=gshard.GShard(),
      dispatcher=capacity.Capacity(),
      balance=(gshard_aux.GShardAux(1.0), load.ExpertLevel(1.0)),
    ),
    7,
  ),
}


# The second has all that the first has, but losses by device.
@pytest.mark.parametrize(
  'case', [pytest.param('deepseek', marks=pytest.mark.soak), 'gshard']
)
def test_eight_devices_equal_one(case):
  """Output, losses, statistics, gradients; the shards are far from alike."""
  config, seed = MESH_CASES[case]
  key = None if seed is None else jax.random.key(seed)
  rng = np.random.default_rng(3)
  x_BLD = rng.normal(size=(8, 6, WIDTH)).astype(np.float32)
  # Each row prefers other experts, and has another number of padding tokens.
  x_BLD += 2 * rng.normal(size=(8, 1, WIDTH)).astype(np.float32)
  valid_BL = np.arange(6) < rng.integers(1, 7, (8, 1))
  pull_BLD = rng.normal(size=x_BLD.shape)

  def found(mesh):
    graph, weights = make(config, mesh)

    def loss(weights, x_BLD):
      out_BLD, record = call(graph, weights, x_BLD, key, valid_BL)
      sums = jax.tree.map(lambda a: a[None], record.balance)
      total, by_name = balance.total(config.balance, sums)
      return jnp.vdot(out_BLD, pull_BLD) / 48 + 10 * total, (
        out_BLD,
        by_name,
        record,
      )

    run = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
    return jax.device_get(run(weights, x_BLD))

  one = found(tiny.mesh())
  tiny.assert_close(
    found(tiny.mesh(8, data=4, fsdp=2)), one, rtol=1e-5, atol=1e-5
  )


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    (
      {'router': top_k.TopK(k=6)},
      'router.k=6 experts per token, but there are 5 routed experts',
    ),
    (
      {'num_experts': 1, 'router': gshard.GShard()},
      'sends a token to 2 experts, but there are 1',
    ),
    (
      {'balance': (load.DeviceLevel(1.0, 2),)},
      'num_groups=2 does not divide the 5 routed experts evenly',
    ),
  ],
)
def test_parts_that_do_not_fit_together(changes, message):
  with pytest.raises(errors.InputError, match=message):
    dataclasses.replace(CONFIG, **changes).check()


def test_x_moe_balances_at_a_temperature_of_its_own():
  """cos = [[1, 0, -1, .71], [.71, .71, -.71, 0], [0, 1, 0, -.71]]; first
  choices 0 0 1, so f = [2/3, 1/3, 0, 0]. Softmax of cos / .3 has the means
  .4053 and .4770 of experts 0 and 1: 4 (2/3 .4053 + 1/3 .4770) = 1.71687,
  whatever the learned tau is.
  """
  config = MoEConfig(
    num_experts=4,
    expert_width=6,
    scorer=cosine.Cosine(width=2),
    router=top_k.TopK(k=1),
    balance=(switch.SwitchLoss(alpha=1.0),),
  )
  x_BLD = np.zeros((1, 3, WIDTH), np.float32)
  x_BLD[0, :, :2] = [[1, 0], [1, 1], [0, 2]]
  graph, weights = make(config)
  weights['router'] = {
    'w_DZ': np.eye(WIDTH, 2, dtype=np.float32),
    'w_EZ': np.array([[1, 0], [0, 1], [-1, 0], [1, -1]], np.float32),
  }

  def loss(router, log_tau):
    whole = {**weights, 'router': router | {'log_tau': log_tau}}
    _, record = call(graph, whole, x_BLD, valid_BL=np.ones((1, 3), bool))
    return config.balance[0].loss(record.balance['switch']), record.stats

  run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
  r = 0.5**0.5
  cos_TE = np.array([[1, 0, -1, r], [r, r, -r, 0], [0, 1, 0, -r]])
  for tau in (0.3, 5.0):
    (value, stats), (gradient, to_log_tau) = run(
      weights['router'], np.log(np.float32(tau))
    )
    np.testing.assert_allclose(value, 1.71687, atol=1e-5)
    assert abs(to_log_tau) < 1e-6
    assert np.abs(gradient['w_EZ']).max() > 0.1
    # What is reported is of the router's own probabilities.
    prob_TE = np.array([references.softmax(x_E / tau) for x_E in cos_TE])
    entropy = -np.sum(prob_TE * np.log(prob_TE), axis=1).mean()
    np.testing.assert_allclose(stats['entropy'].value(), entropy, rtol=1e-5)


@pytest.mark.parametrize(
  'grouped_matmul',
  ['auto', pytest.param('blocked', marks=pytest.mark.soak), 'reference'],
)
@pytest.mark.parametrize(
  ('scales_input', 'want'), [(True, 0.731059), (False, 1.761594)]
)
def test_llama_4_scales_what_an_expert_is_given(
  scales_input, want, grouped_matmul
):
  """An expert silu(x) x at x = 2 with a weight of sigmoid(0) = 1/2: of the
  input silu(1) = .731059, of the output silu(2) = 1.761594.
  """
  config = MoEConfig(
    num_experts=2,
    expert_width=1,
    router=top_k.TopK(k=1, score='sigmoid', scales_input=scales_input),
    balance=(),
    grouped_matmul=grouped_matmul,
  )
  graph, weights = tiny.module(
    lambda: layer.MoE(config, 1, 1.0, tiny.mesh(), jax.random.key(0))
  )
  weights['router']['w_DE'][:] = 0
  for leaf in weights['routed'].values():
    leaf[:] = 1
  x_BLD = np.full((1, 4, 1), 2, np.float32)
  run = functools.partial(call, graph, valid_BL=np.ones((1, 4), bool))
  out_BLD, _ = jax.jit(run)(weights, x_BLD)
  np.testing.assert_allclose(out_BLD, np.full((1, 4, 1), want), rtol=1e-5)
