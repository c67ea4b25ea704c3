"""What every router records of its routes, and how it replays them.

All routers are one compiled program, with the problem of test_routers.py: one
expert that few choose, others that most choose, and padding.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny

from moejax.core import errors
from moejax.moe import contract, decide, routes
from moejax.moe.replay import NOWHERE, Replayed
from moejax.moe.routers import ROUTERS

T, E, L = 16, 5, 8
VALID_T = ~np.isin(np.arange(T), [3, 14, 15])
TOKEN_T = np.random.default_rng(0).integers(0, 40, T).astype(np.int32)
KEY = jax.random.key(5)
EACH_ROUTER = pytest.mark.parametrize('name', sorted(ROUTERS))
REPLAYS = sorted(name for name, cls in ROUTERS.items() if cls.replays)


def given(name, noise=False):
  """The input of a router."""
  router = ROUTERS[name]()
  rng = np.random.default_rng(1)
  draw = lambda num: rng.normal(size=(T, num)).astype(np.float32)
  logits_TE = draw(router.num_logits(E))
  if logits_TE.shape[1] == E:
    logits_TE += np.array([1.5, 1.0, -30.0, 0.0, 0.0], np.float32)
  extra = {n: draw(num) for n, (_, num) in router.extra_scorers(E).items()}
  return tiny.router_input(
    logits_TE,
    valid_T=VALID_T,
    key=KEY if noise else None,
    row_length=L,
    extra_scores=jax.tree.map(jnp.asarray, extra),
    token_T=jnp.asarray(TOKEN_T),
    steps=jnp.float32(3),
  )


@functools.cache
def routed(noise=False):
  """The routing of each router, by its name."""
  every = {name: given(name, noise) for name in ROUTERS}
  run = lambda every: {n: ROUTERS[n]()(inputs) for n, inputs in every.items()}
  return jax.device_get(jax.jit(run)(every))


def ranks(routing, sent_A):
  """By token, [expert, weight, dropped] by falling weight: by a loop."""
  by_token = [[] for _ in range(T)]
  for token, expert, weight, sent in zip(
    routing.token_A, routing.expert_A, routing.weight_A, sent_A, strict=True
  ):
    if expert < E:
      by_token[token].append([int(expert), float(weight), not sent])
  return [sorted(rank, key=lambda r: -r[1]) for rank in by_token]


def recorded(routing, inputs, sent_A, request):
  """Routes as numpy arrays, [T, ...]."""
  found = routes.record(request, inputs, routing, jnp.asarray(sent_A))
  flat = lambda x: np.asarray(x).reshape(T, *x.shape[2:])
  return jax.tree.map(flat, found)


@pytest.mark.parametrize(
  'noise',
  [False, pytest.param(True, marks=pytest.mark.soak)],
  ids=['calm', 'noise'],
)
@EACH_ROUTER
def test_routes_are_the_routing_by_token_and_rank(name, noise):
  routing, inputs = routed(noise)[name], given(name, noise)
  sent_A = np.arange(len(routing.expert_A)) % 3 != 1
  found = recorded(routing, inputs, sent_A, routes.RoutesRequest(logits=True))
  k = E if routing.per_token is None else routing.per_token
  assert found.expert_BLK.shape == (T, k)
  for token, want in enumerate(ranks(routing, sent_A)):
    missing = k - len(want)
    assert missing >= 0
    want = want + missing * [[NOWHERE, 0.0, False]]
    got = zip(
      found.expert_BLK[token].tolist(),
      found.weight_BLK[token].tolist(),
      found.dropped_BLK[token].tolist(),
      strict=True,
    )
    assert [list(rank) for rank in got] == want
  assert (found.expert_BLK[~VALID_T] == NOWHERE).all()
  prob_TE = np.where(routing.prob_TE > 0, routing.prob_TE, 1)
  entropy_T = -(prob_TE * np.log(prob_TE)).sum(axis=1)
  np.testing.assert_allclose(
    found.entropy_BL, np.where(VALID_T, entropy_T, 0), rtol=1e-5, atol=1e-6
  )
  np.testing.assert_array_equal(found.logits_BLE, inputs.logits_TE)


@pytest.mark.parametrize('k', [1, 2, 7])
@pytest.mark.parametrize('name', ['top_k', 'expert_choice'])
def test_a_request_keeps_so_many_ranks(name, k):
  routing, inputs = routed()[name], given(name)
  sent_A = np.arange(len(routing.expert_A)) % 3 != 1
  whole = recorded(routing, inputs, sent_A, routes.RoutesRequest())
  found = recorded(routing, inputs, sent_A, routes.RoutesRequest(k=k))
  assert found.logits_BLE is None
  for key, empty in (('expert', NOWHERE), ('weight', 0), ('dropped', False)):
    want, got = (getattr(x, f'{key}_BLK') for x in (whole, found))
    missing = max(0, k - want.shape[1])
    want = np.pad(want[:, :k], ((0, 0), (0, missing)), constant_values=empty)
    np.testing.assert_array_equal(got, want)
    assert got.dtype == want.dtype


def test_equal_weights_keep_the_routers_order():
  routing = contract.Routing(
    token_A=jnp.array([0, 1, 0, 1, 0, 1]),
    expert_A=jnp.array([3, 4, 0, 2, 1, 0]),
    weight_A=jnp.array([0.2, 0.3, 0.2, 0.3, 0.6, 0.3]),
    prob_TE=jnp.full((2, 5), 0.2),
  )
  inputs = tiny.router_input(np.zeros((2, 5)))
  sent_A, request = jnp.ones(6, bool), routes.RoutesRequest(k=3)
  for per_token in (None, 3):
    listed = dataclasses.replace(routing, per_token=per_token)
    found = routes.record(request, inputs, listed, sent_A)
    np.testing.assert_array_equal(found.expert_BLK[0], [[1, 3, 0], [4, 2, 0]])


def test_no_rank_is_no_request():
  with pytest.raises(errors.InputError, match='k=0'):
    routes.RoutesRequest(k=0)


def gates(routing):
  """The weight of each expert for each token, [T, E], by a loop."""
  gate_TE = np.zeros((T, E))
  for token, expert, weight in zip(
    routing.token_A, routing.expert_A, routing.weight_A, strict=True
  ):
    if expert < E:
      gate_TE[token, expert] += weight
  return gate_TE


def another(k):
  """Other experts, weights and assignments that are dropped: [T, k] each."""
  rng = np.random.default_rng(k)
  expert_TK = np.argsort(rng.random((T, E)), axis=1)[:, :k].astype(np.int32)
  expert_TK[5, k // 2 :] = NOWHERE
  expert_TK[6] = NOWHERE
  weight_TK = rng.normal(size=(T, k)).astype(np.float32)
  return Replayed(jnp.asarray(expert_TK), jnp.asarray(weight_TK))


def own(name):
  """What a router has recorded, without its weights."""
  routing = routed()[name]
  sent_A = np.ones(len(routing.expert_A), bool)
  found = recorded(routing, given(name), sent_A, routes.RoutesRequest())
  return Replayed(jnp.asarray(found.expert_BLK))


@functools.cache
def replayed():
  """By router, its routings in replays of others' choices and of its own."""
  cases = {}
  for name in ROUTERS:
    k = routed()[name].per_token or E
    cases[name] = {'weights': another(k)}
    if ROUTERS[name].replays:
      cases[name] |= {
        'live': Replayed(cases[name]['weights'].expert_TK),
        'own': own(name),
      }

  def run(cases, every):
    choose = lambda name, record: decide.choose(
      ROUTERS[name](), dataclasses.replace(every[name], replayed=record), E
    )
    return {
      name: {key: choose(name, record) for key, record in records.items()}
      for name, records in cases.items()
    }

  every = {name: given(name) for name in ROUTERS}
  return cases, jax.device_get(jax.jit(run)(cases, every))


@EACH_ROUTER
def test_recorded_weights_are_replayed_as_they_are(name):
  cases, found = replayed()
  record, routing = cases[name]['weights'], found[name]['weights']
  want_TE = np.zeros((T, E))
  for token in np.nonzero(VALID_T)[0]:
    for expert, weight in zip(
      record.expert_TK[token], record.weight_TK[token], strict=True
    ):
      if expert != NOWHERE:
        want_TE[token, expert] += weight
  np.testing.assert_allclose(gates(routing), want_TE, rtol=1e-6)
  assert routing.per_token == record.expert_TK.shape[1]
  assert routing.group_size == L
  if routing.residual_T is not None:
    want_T = np.where(VALID_T, 1 - want_TE.sum(axis=1), 0)
    np.testing.assert_allclose(routing.residual_T, want_T, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('name', REPLAYS)
def test_a_replay_of_its_own_choice_changes_nothing(name):
  found = replayed()[1][name]['own']
  np.testing.assert_allclose(
    gates(found), gates(routed()[name]), rtol=1e-6, atol=1e-7
  )
  for key, leaf in routed()[name].extra.items():
    got, want = found.extra[key][VALID_T], leaf[VALID_T]
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('name', REPLAYS)
def test_a_replay_goes_to_the_recorded_experts(name):
  cases, found = replayed()
  record, routing = cases[name]['live'], found[name]['live']
  expert_TK = np.where(VALID_T[:, None], record.expert_TK, NOWHERE)
  want_KT = np.where(expert_TK == NOWHERE, E, expert_TK).T
  np.testing.assert_array_equal(routing.expert_A, want_KT.reshape(-1))
  weight_A = routing.weight_A
  assert np.isfinite(weight_A).all()
  assert (weight_A[routing.expert_A == E] == 0).all()


@pytest.mark.parametrize('name', sorted({*ROUTERS} - {*REPLAYS}))
def test_who_weighs_nothing_but_its_own_choice_says_so(name):
  record = Replayed(jnp.zeros((T, 1), jnp.int32))
  inputs = dataclasses.replace(given(name), replayed=record)
  with pytest.raises(
    errors.InputError, match='replay the recorded weights too'
  ):
    decide.choose(ROUTERS[name](), inputs, E)


def test_another_number_of_experts_is_refused():
  record = Replayed(jnp.zeros((T, 3), jnp.int32))
  inputs = dataclasses.replace(given('top_k'), replayed=record)
  with pytest.raises(errors.InputError, match='have 3 .* chooses 2; give 2'):
    decide.choose(ROUTERS['top_k'](), inputs, E)
  record = Replayed(jnp.zeros((T, E + 1), jnp.int32))
  inputs = dataclasses.replace(given('remoe'), replayed=record)
  with pytest.raises(errors.InputError, match='have 6 .* has 5 to choose from'):
    decide.choose(ROUTERS['remoe'](), inputs, E)
