"""What holds for every router with every dispatcher: a new entry of a table is
tested by being listed.
"""

import dataclasses
import functools
import math
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import dense, tiny

from moejax.moe import compute, contract, grouped_matmul, stats
from moejax.moe.config import MoEConfig
from moejax.moe.dispatchers import DISPATCHERS
from moejax.moe.routers import ROUTERS

T, E, D, F, L = 16, 5, 6, 4, 8
RNG = np.random.default_rng(0)
X_TD = RNG.normal(size=(T, D)).astype(np.float32)
PULL_TD = RNG.normal(size=(T, D)).astype(np.float32)
VALID_T = ~np.isin(np.arange(T), [3, 14, 15])
KEY = jax.random.key(5)

# Expert 2 is chosen by nobody, experts 0 and 1 by most.
LOGITS_TE = RNG.normal(size=(T, E)).astype(np.float32)
LOGITS_TE += np.array([1.5, 1.0, -30.0, 0.0, 0.0], np.float32)

WEIGHTS = {
  'w_in_ED2F': RNG.normal(size=(E, D, 2, F)).astype(np.float32),
  'w_out_EFD': RNG.normal(size=(E, F, D)).astype(np.float32),
}

EACH_ROUTER = pytest.mark.parametrize('router', sorted(ROUTERS))
EACH_DISPATCHER = pytest.mark.parametrize('dispatcher', sorted(DISPATCHERS))
NOISE = pytest.mark.parametrize('key', [None, KEY], ids=['calm', 'noise'])


def given(logits_TE=LOGITS_TE, valid_T=VALID_T, key=KEY):
  return tiny.router_input(logits_TE, valid_T=valid_T, key=key, row_length=L)


@functools.partial(jax.jit, static_argnums=0)
def route(router, given):
  return router(given)


@functools.partial(jax.jit, static_argnums=0)
def dispatch(dispatcher, routing):
  return dispatcher.dispatch(jnp.asarray(X_TD), routing, E)


def gates(routing):
  """The weight of each expert for each token, [T, E], by a loop."""
  num_tokens, num_experts = routing.prob_TE.shape
  gate_TE = np.zeros((num_tokens, num_experts))
  for token, expert, weight in assignments(routing):
    if expert < num_experts:
      gate_TE[token, expert] += weight
  return gate_TE


def assignments(routing):
  return zip(
    *(
      np.asarray(x).tolist()
      for x in (routing.token_A, routing.expert_A, routing.weight_A)
    ),
    strict=True,
  )


def all_are_kept(dispatcher, routing):
  """Which assignments get a row when nothing is dropped."""
  return [expert < E for _, expert, _ in assignments(routing)]


def first_come_first_served(dispatcher, routing):
  """Which assignments get a row when each expert has C of each group."""
  size = routing.group_size or T
  groups = T // size
  num_assignments = len(routing.expert_A)
  room = math.ceil(dispatcher.factor * num_assignments / groups / E)
  taken = Counter()
  kept = []
  for token, expert, _ in assignments(routing):
    place = taken[token // size, expert]
    taken[token // size, expert] += 1
    kept.append(expert < E and place < room)
  return kept


KEPT = {'capacity': first_come_first_served}


def kept_by(name, dispatcher, routing):
  return np.array(KEPT.get(name, all_are_kept)(dispatcher, routing))


def config_of(router, dispatcher):
  return MoEConfig(num_experts=E, router=router, dispatcher=dispatcher)


def apply(config, weights, x_TD, routing):
  """Dispatch, experts and combine, with the plainest matmul."""
  multiply = grouped_matmul.Reference()
  run = compute.Stages(config.dispatcher, config.experts, multiply)
  return run(weights, x_TD, routing)


@functools.partial(jax.jit, static_argnums=0)
def output_and_gradient(config, weights, x_TD, given):
  """out_TD, the dispatcher's rows, and the gradient by weights, x, logits."""

  def pulled(weights, x_TD, logits_TE):
    routing = config.router(dataclasses.replace(given, logits_TE=logits_TE))
    found = apply(config, weights, x_TD, routing)
    return jnp.vdot(found.out_TD, PULL_TD), (found.out_TD, found.sent_A)

  gradient = jax.grad(pulled, argnums=(0, 1, 2), has_aux=True)
  return gradient(weights, x_TD, given.logits_TE)


@functools.partial(jax.jit, static_argnums=0)
def obvious(router, weights, x_TD, given, kept_A):
  def pulled(weights, x_TD, logits_TE):
    routing = router(dataclasses.replace(given, logits_TE=logits_TE))
    gate_TE = dense.gates(routing, T, E, kept_A)
    out_TD = dense.experts(weights, x_TD, gate_TE)
    return jnp.vdot(out_TD, PULL_TD), out_TD

  gradient = jax.grad(pulled, argnums=(0, 1, 2), has_aux=True)
  return gradient(weights, x_TD, given.logits_TE)


@EACH_DISPATCHER
@EACH_ROUTER
def test_equals_the_dense_sum_over_the_list(router, dispatcher):
  """Forward and gradients, with padding and with an expert without tokens."""
  config = config_of(ROUTERS[router](), DISPATCHERS[dispatcher]())
  kept_A = kept_by(dispatcher, config.dispatcher, route(config.router, given()))
  got, (out_TD, has_row_A) = output_and_gradient(config, WEIGHTS, X_TD, given())
  np.testing.assert_array_equal(has_row_A, kept_A)
  want, want_TD = obvious(config.router, WEIGHTS, X_TD, given(), kept_A)
  np.testing.assert_allclose(out_TD, want_TD, rtol=1e-5, atol=1e-5)
  assert (np.asarray(out_TD)[~VALID_T] == 0).all()
  tiny.assert_close(got, want, rtol=1e-5, atol=1e-5)
  for gradient in got[0].values():
    np.testing.assert_array_equal(gradient[2], 0)
    assert (np.abs(gradient[0]) > 0).any()


def test_the_problem_is_one_in_which_something_is_dropped():
  """Else the test above says nothing about capacity."""
  for name in ROUTERS:
    routing = route(ROUTERS[name](), given())
    dispatcher = DISPATCHERS['capacity']()
    kept_A = kept_by('capacity', dispatcher, routing)
    assert 0 < kept_A.sum() < (np.asarray(routing.expert_A) < E).sum()


@EACH_DISPATCHER
@EACH_ROUTER
def test_rows_are_grouped_by_expert(router, dispatcher):
  routing = route(ROUTERS[router](), given())
  scheme = DISPATCHERS[dispatcher]()
  x_RD, size_E, note = jax.device_get(dispatch(scheme, routing))
  end_E = np.cumsum(size_E)
  rows = len(x_RD)
  assert end_E[-1] <= rows
  if scheme.equal_groups:
    assert set(np.asarray(size_E).tolist()) == {rows // E}
  filled = set()
  row_A = np.asarray(note.row_A)
  for row, (token, expert, _) in zip(row_A, assignments(routing), strict=True):
    if row < rows:
      assert end_E[expert] - size_E[expert] <= row < end_E[expert]
      np.testing.assert_array_equal(x_RD[row], X_TD[token])
      assert row not in filled
      filled.add(int(row))
  empty = sorted(set(range(rows)) - filled)
  np.testing.assert_array_equal(np.asarray(x_RD)[empty], 0)


@EACH_DISPATCHER
def test_any_list_of_assignments(dispatcher):
  """Not K for each token: some have many assignments, some none."""
  rng = np.random.default_rng(4)
  routing = contract.Routing(
    token_A=jnp.asarray(rng.integers(0, T - 4, 20), jnp.int32),
    expert_A=jnp.asarray(rng.integers(0, E + 1, 20), jnp.int32),
    weight_A=jnp.asarray(rng.uniform(size=20), jnp.float32),
    prob_TE=jnp.full((T, E), 1 / E),
  )
  scheme = DISPATCHERS[dispatcher]()
  kept_A = jnp.asarray(kept_by(dispatcher, scheme, routing))
  config = config_of(ROUTERS['top_k'](), scheme)

  def routed(weights, x_TD, weight_A):
    with_weight = dataclasses.replace(routing, weight_A=weight_A)
    found = apply(config, weights, x_TD, with_weight)
    return jnp.vdot(found.out_TD, PULL_TD)

  def obvious(weights, x_TD, weight_A):
    with_weight = dataclasses.replace(routing, weight_A=weight_A)
    gate_TE = dense.gates(with_weight, T, E, kept_A)
    return jnp.vdot(dense.experts(weights, x_TD, gate_TE), PULL_TD)

  got, want = (
    jax.jit(jax.value_and_grad(f, argnums=(0, 1, 2)))(
      WEIGHTS, X_TD, routing.weight_A
    )
    for f in (routed, obvious)
  )
  tiny.assert_close(got, want, rtol=1e-5, atol=1e-5)


@NOISE
@EACH_ROUTER
def test_what_a_routing_promises(router, key):
  routing = route(ROUTERS[router](), given(key=key))
  expert_A = np.asarray(routing.expert_A)
  token_A = np.asarray(routing.token_A)
  assert expert_A.dtype == token_A.dtype == np.int32
  assert routing.weight_A.dtype == routing.prob_TE.dtype == jnp.float32
  assert len(expert_A) == len(token_A) == len(routing.weight_A)
  assert ((expert_A >= 0) & (expert_A <= E)).all()
  assert ((token_A >= 0) & (token_A < T)).all()
  assert np.isfinite(routing.weight_A).all()
  np.testing.assert_allclose(routing.prob_TE.sum(axis=1), 1, rtol=1e-6)
  assert T % (routing.group_size or T) == 0
  # Nobody is sent to one expert twice.
  sent = [pair[:2] for pair in assignments(routing) if pair[1] < E]
  assert len(sent) == len(set(sent))
  if routing.per_token is not None:
    assert len(token_A) == routing.per_token * T
    np.testing.assert_array_equal(token_A, np.arange(len(token_A)) % T)


@EACH_ROUTER
def test_experts_per_token_is_what_is_sent(router):
  scheme = ROUTERS[router]()
  scheme.check(E)
  routing = route(scheme, given(valid_T=np.ones(T, bool), key=None))
  assert (routing.expert_A < E).sum() == scheme.experts_per_token * T


@NOISE
@EACH_ROUTER
def test_padding_is_sent_nowhere_and_changes_nothing(router, key):
  scheme = ROUTERS[router]()
  routing = route(scheme, given(key=key))
  for token, expert, weight in assignments(routing):
    if not VALID_T[token]:
      assert (expert, weight) == (E, 0)
  other_TE = np.where(VALID_T[:, None], LOGITS_TE, 9 * LOGITS_TE[::-1])
  other = route(scheme, given(other_TE, key=key))
  np.testing.assert_array_equal(gates(other), gates(routing))


@EACH_DISPATCHER
def test_padding_is_counted_nowhere(dispatcher):
  scheme = DISPATCHERS[dispatcher]()
  routing = route(ROUTERS['top_k'](k=2), given())
  x_RD, _, note = dispatch(scheme, routing)
  found = stats.observe(given(), routing, note.row_A < len(x_RD))
  assert found['count_E'].value().sum() == 2 * VALID_T.sum()
  assert found['dropped'].weight == 2 * VALID_T.sum()
  padding_A = ~VALID_T[np.asarray(routing.token_A)]
  assert (np.asarray(note.row_A)[padding_A] >= len(x_RD)).all()


@NOISE
@EACH_ROUTER
def test_renaming_the_experts_renames_the_result(router, key):
  scheme = ROUTERS[router]()
  order_E = np.array([3, 0, 4, 1, 2])
  plain = gates(route(scheme, given(key=key)))
  renamed = gates(route(scheme, given(LOGITS_TE[:, order_E], key=key)))
  np.testing.assert_allclose(renamed, plain[:, order_E], rtol=1e-6)


@NOISE
@EACH_ROUTER
def test_token_choice_looks_at_no_other_token(router, key):
  """Another order, or half of the tokens: with their index they are routed the
  same, noise included. So neither mesh nor micro-batches change a routing.
  """
  scheme = ROUTERS[router]()
  whole = given(key=key)
  if route(scheme, whole).per_token is None:
    pytest.skip('experts choose tokens here, so tokens compete')
  plain = gates(route(scheme, whole))
  order_T = np.random.default_rng(1).permutation(T)

  def take(order_T):
    return dataclasses.replace(
      whole,
      logits_TE=whole.logits_TE[order_T],
      valid_T=whole.valid_T[order_T],
      index_T=whole.index_T[order_T],
    )

  for part in (order_T, np.arange(8), np.arange(8, 16)):
    np.testing.assert_allclose(
      gates(route(scheme, take(part))), plain[part], rtol=1e-6
    )


def test_noise_depends_on_key_and_index_alone():
  uniform = jax.jit(lambda given: contract.uniform(given, 3))
  draw = lambda given: np.asarray(uniform(given))
  whole = given()
  noise_TN = draw(whole)
  assert noise_TN.shape == (T, 3)
  assert ((noise_TN >= 0) & (noise_TN < 1)).all()
  assert len(np.unique(noise_TN)) == noise_TN.size
  half = dataclasses.replace(whole, index_T=whole.index_T[8:])
  np.testing.assert_array_equal(draw(half), noise_TN[8:])
  other = dataclasses.replace(whole, key=jax.random.key(6))
  assert (draw(other) != noise_TN).all()
