"""What holds for every router: a new entry of the table is tested by being
listed.

Each is compiled whole, once for all tests that call it with the same shapes.
`test_meshes.py` has dispatchers and expert parallelism.
"""

import dataclasses
import functools
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny

from moejax.core import errors
from moejax.moe import stats
from moejax.moe.dispatchers import DISPATCHERS
from moejax.moe.routers import ROUTERS, noise

T, E, D, L = 16, 5, 6, 8
RNG = np.random.default_rng(0)
X_TD = RNG.normal(size=(T, D)).astype(np.float32)
VALID_T = ~np.isin(np.arange(T), [3, 14, 15])
TOKEN_T = RNG.integers(0, 40, T).astype(np.int32)
KEY = jax.random.key(5)


def where(**attributes):
  """Parametrizes with the routers whose class says so of itself."""
  names = [
    name
    for name, cls in sorted(ROUTERS.items())
    if all(getattr(cls, key) == value for key, value in attributes.items())
  ]
  return pytest.mark.parametrize('router', names)


EACH_ROUTER = pytest.mark.parametrize('router', sorted(ROUTERS))
NOISE = pytest.mark.parametrize('key', [None, KEY], ids=['calm', 'noise'])


@functools.cache
def scores(router):
  """Logits, and extra scores; few choose expert 2, most choose 0 and 1."""
  scheme = ROUTERS[router]()
  rng = np.random.default_rng(1)
  draw = lambda num: rng.normal(size=(T, num)).astype(np.float32)
  logits = draw(scheme.num_logits(E))
  if logits.shape[1] == E:
    logits += np.array([1.5, 1.0, -30.0, 0.0, 0.0], np.float32)
  return logits, {
    name: draw(num) for name, (_, num) in scheme.extra_scorers(E).items()
  }


def given(router, key=KEY, valid_T=VALID_T, **changes):
  logits, extra = scores(router)
  found = tiny.router_input(
    logits,
    valid_T=valid_T,
    key=key,
    row_length=L,
    extra_scores={name: jnp.asarray(head) for name, head in extra.items()},
    token_T=jnp.asarray(TOKEN_T),
    steps=jnp.float32(3),
  )
  return dataclasses.replace(found, **changes)


@functools.cache
def compiled(router):
  return jax.jit(ROUTERS[router]())


def route(router, seen):
  return jax.device_get(compiled(router)(seen))


def assignments(routing):
  return zip(
    *(
      np.asarray(x).tolist()
      for x in (routing.token_A, routing.expert_A, routing.weight_A)
    ),
    strict=True,
  )


def gates(routing):
  """The weight of each expert for each token, [T, E], by a loop."""
  num_tokens = len(routing.prob_TE)
  gate_TE = np.zeros((num_tokens, E))
  for token, expert, weight in assignments(routing):
    if expert < E:
      gate_TE[token, expert] += weight
  return gate_TE


def taken(seen, order_T):
  """What a router sees of some of the tokens, in some order."""
  of = lambda x: x[order_T]
  return dataclasses.replace(
    seen,
    logits_TE=of(seen.logits_TE),
    valid_T=of(seen.valid_T),
    index_T=of(seen.index_T),
    token_T=of(seen.token_T),
    extra_scores=jax.tree.map(of, seen.extra_scores),
  )


@NOISE
@EACH_ROUTER
def test_what_a_routing_promises(router, key):
  routing = route(router, given(router, key))
  expert_A, token_A = routing.expert_A, routing.token_A
  assert expert_A.dtype == token_A.dtype == np.int32
  assert routing.weight_A.dtype == routing.prob_TE.dtype == jnp.float32
  assert len(expert_A) == len(token_A) == len(routing.weight_A)
  assert ((expert_A >= 0) & (expert_A <= E)).all()
  assert ((token_A >= 0) & (token_A < T)).all()
  assert np.isfinite(routing.weight_A).all()
  np.testing.assert_allclose(routing.prob_TE.sum(axis=1), 1, rtol=1e-5)
  assert (routing.prob_TE >= 0).all()
  # A capacity that is shared is that of sequences.
  assert routing.group_size == L
  # Nobody is sent to one expert twice.
  sent = [pair[:2] for pair in assignments(routing) if pair[1] < E]
  assert sent
  assert len(sent) == len(set(sent))
  if routing.per_token is not None:
    assert len(token_A) == routing.per_token * T
    np.testing.assert_array_equal(token_A, np.arange(len(token_A)) % T)
  for leaf in jax.tree.leaves(routing.extra):
    assert leaf.dtype == np.float32
    assert len(leaf) == T


@EACH_ROUTER
def test_every_logit_is_of_an_expert_or_of_none(router):
  scheme = ROUTERS[router]()
  expert_C = scheme.expert_of_logit(E)
  assert len(expert_C) == scheme.num_logits(E)
  assert {*expert_C} - {-1} == {*range(E)}
  needs = scheme.expert_needs
  assert 1 <= needs.at_least <= E
  assert 1 <= needs.least_groups <= needs.num_groups


@EACH_ROUTER
def test_experts_per_token_is_what_is_sent(router):
  """Exactly, where all tokens are sent to equally many; else on average, of
  which nothing is known but that it is some of the experts.
  """
  scheme = ROUTERS[router]()
  scheme.check(E)
  logits, extra = scores(router)
  sent = []
  for scale in (1.0, 0.1):
    seen = given(
      router,
      None,
      valid_T=np.ones(T, bool),
      logits_TE=scale * jnp.asarray(logits),
      extra_scores=jax.tree.map(lambda x, s=scale: s * x, extra),
    )
    sent.append((gates_asked(route(router, seen)) > 0).sum(axis=1))
  sent = np.concatenate(sent)
  if np.ptp(sent) == 0:
    assert sent[0] == scheme.experts_per_token
  assert 0 < scheme.experts_per_token <= E
  assert 0 < sent.mean() <= E


def gates_asked(routing):
  """How often each token is sent to each expert, with whatever weight."""
  asked_TE = np.zeros((len(routing.prob_TE), E))
  for token, expert, _ in assignments(routing):
    if expert < E:
      asked_TE[token, expert] += 1
  return asked_TE


@NOISE
@EACH_ROUTER
def test_padding_is_sent_nowhere_and_changes_nothing(router, key):
  routing = route(router, given(router, key))
  for token, expert, weight in assignments(routing):
    if not VALID_T[token]:
      assert (expert, weight) == (E, 0)
  if routing.residual_T is not None:
    assert (routing.residual_T[~VALID_T] == 0).all()
  logits, extra = scores(router)
  swap = lambda x: jnp.where(VALID_T[:, None], x, 9 * x[::-1])
  other = given(
    router,
    key,
    logits_TE=swap(logits),
    extra_scores=jax.tree.map(swap, extra),
    token_T=jnp.where(VALID_T, TOKEN_T, 7),
  )
  np.testing.assert_allclose(
    gates(route(router, other)), gates(routing), rtol=1e-6, atol=1e-7
  )


@NOISE
@where(experts_are_alike=True)
def test_renaming_the_experts_renames_the_result(router, key):
  order_E = np.array([3, 0, 4, 1, 2])
  logits, extra = scores(router)
  renamed = given(
    router,
    key,
    logits_TE=jnp.asarray(logits[:, order_E]),
    extra_scores={
      name: jnp.asarray(h[:, order_E]) for name, h in extra.items()
    },
  )
  if key is not None and drawn_by_expert(router):
    key = None  # the names are in the noise
  plain = gates(route(router, given(router, key)))
  got = gates(route(router, dataclasses.replace(renamed, key=key)))
  np.testing.assert_allclose(got, plain[:, order_E], rtol=1e-5, atol=1e-6)


def drawn_by_expert(router):
  """Whether other keys give other choices or gates."""
  one, two = (
    gates(route(router, given(router, jax.random.key(i)))) for i in (1, 2)
  )
  return not np.array_equal(one, two)


@NOISE
@where(tokens_compete=False)
def test_a_token_looks_at_no_other(router, key):
  """Another order, or half of the tokens: with their index they are routed the
  same, noise included. So neither mesh nor micro-batches change a routing.
  """
  seen = given(router, key)
  plain = gates(route(router, seen))
  parts = [np.arange(8), np.arange(8, 16)]
  parts.append(np.random.default_rng(1).permutation(T))
  for part in parts:
    np.testing.assert_allclose(
      gates(route(router, taken(seen, part))), plain[part], rtol=1e-6
    )


@NOISE
@where(tokens_compete=True)
def test_a_sequence_looks_at_no_other(router, key):
  seen = given(router, key)
  plain = gates(route(router, seen))
  for part in (np.arange(8), np.arange(8, 16)):
    np.testing.assert_allclose(
      gates(route(router, taken(seen, part))), plain[part], rtol=1e-6
    )


@functools.cache
def gradients():
  """By scale, gradients to the scores of all routers, as one program."""
  pull = np.random.default_rng(2).normal(size=1000).astype(np.float32)

  def pulled(router, logits, extra):
    seen = given(router, logits_TE=logits, extra_scores=extra)
    routing = ROUTERS[router]()(seen)
    weight_A = routing.weight_A
    return jnp.vdot(weight_A, pull[: len(weight_A)]) + jnp.vdot(
      routing.prob_TE, pull[: T * E].reshape(T, E)
    )

  def total(scores_of):
    return sum(pulled(router, *pair) for router, pair in scores_of.items())

  plain = {router: scores(router) for router in ROUTERS}
  grown = lambda scale: jax.tree.map(lambda x: scale * x, plain)
  run = jax.jit(jax.grad(total))
  return {
    scale: jax.device_get(run(grown(np.float32(scale))))
    for scale in (0.0, 1.0, 30.0)
  }


@EACH_ROUTER
def test_gradients_are_finite_also_for_extreme_scores(router):
  for scale, gradient in gradients().items():
    for leaf in jax.tree.leaves(gradient[router]):
      assert np.isfinite(leaf).all(), scale


@EACH_ROUTER
def test_a_selection_bias_moves_choices_but_no_gates(router):
  """In a late layer, since the first ones may choose by something else."""
  more = moves_choices(router, None)
  if ROUTERS[router].follows_selection_bias:
    # In evaluation or, where scores choose in training alone, there.
    assert more or moves_choices(router, KEY)


@pytest.mark.parametrize(
  'router',
  # The others choose within groups of experts.
  sorted(
    name
    for name, cls in ROUTERS.items()
    if cls().chooses_by and not name.startswith('group')
  ),
)
def test_choices_are_the_largest_of_the_named_scores_with_the_bias(router):
  """In evaluation, and in a late layer."""
  bias_E = np.array([0, 0.3, 0.1, -0.2, 0.05], np.float32)
  seen = given(router, None, layer=9, selection_bias_E=bias_E)
  logits_TE = scores(router)[0].astype(np.float64)
  exp_TE = np.exp(logits_TE)
  score_TE = {
    'logits': logits_TE,
    'softmax': exp_TE / exp_TE.sum(axis=1, keepdims=True),
    'sqrt_softplus': np.sqrt(np.log1p(exp_TE)),
  }[ROUTERS[router]().chooses_by]
  chosen = [set() for _ in range(T)]
  for token, expert, _ in assignments(route(router, seen)):
    if expert < E:
      chosen[token].add(expert)
  for token in np.flatnonzero(VALID_T):
    assert chosen[token]
    order = np.argsort(-(score_TE[token] + bias_E))
    assert chosen[token] == {*order[: len(chosen[token])].tolist()}


def moves_choices(router, key):
  """Whether a bias brings expert 2 more tokens; weights stay as they are."""
  bias_E = np.array([0, 0, 80.0, 0, 0], np.float32)
  before, after = (
    gates(route(router, given(router, key, layer=9, selection_bias_E=bias)))
    for bias in (None, bias_E)
  )
  if not ROUTERS[router].follows_selection_bias:
    np.testing.assert_array_equal(after, before)
  if ROUTERS[router]().weights_are_independent:
    both_TE = (before != 0) & (after != 0)
    np.testing.assert_allclose(after[both_TE], before[both_TE], rtol=1e-6)
  return (after[:, 2] != 0).sum() > (before[:, 2] != 0).sum()


def first_come_first_served(dispatcher, routing):
  """Which assignments get a row when each expert has C of each group."""
  num_assignments = len(routing.expert_A)
  room = -(-dispatcher.factor * num_assignments // (T // L) // E)
  counted, kept = Counter(), []
  for token, expert, _ in assignments(routing):
    place = counted[token // L, expert]
    counted[token // L, expert] += 1
    kept.append(expert < E and place < room)
  return np.array(kept)


@pytest.mark.parametrize('dispatcher', sorted(DISPATCHERS))
@pytest.mark.parametrize('router', ['top_k', 'gshard', 'expert_choice'])
def test_rows_are_grouped_by_expert(router, dispatcher):
  routing = route(router, given(router))
  scheme = DISPATCHERS[dispatcher]()
  dispatch = jax.jit(lambda x_TD, routing: scheme.dispatch(x_TD, routing, E))
  x_RD, size_E, note = jax.device_get(dispatch(X_TD, routing))
  end_E = np.cumsum(size_E)
  rows = len(x_RD)
  assert end_E[-1] <= rows
  if scheme.equal_groups:
    assert set(np.asarray(size_E).tolist()) == {rows // E}
    kept_A = first_come_first_served(scheme, routing)
    assert kept_A.sum() > 0
    limited = scheme.limit(routing, E, training=True)
    np.testing.assert_array_equal(limited.expert_A < E, kept_A)
  else:
    kept_A = np.asarray(routing.expert_A) < E
  row_A = np.asarray(note.row_A)
  np.testing.assert_array_equal(row_A < rows, kept_A)
  filled = set()
  for row, (token, expert, _) in zip(row_A, assignments(routing), strict=True):
    if row < rows:
      assert end_E[expert] - size_E[expert] <= row < end_E[expert]
      np.testing.assert_array_equal(x_RD[row], X_TD[token])
      assert row not in filled
      filled.add(int(row))
  empty = sorted(set(range(rows)) - filled)
  np.testing.assert_array_equal(np.asarray(x_RD)[empty], 0)


@pytest.mark.parametrize('dispatcher', sorted(DISPATCHERS))
def test_padding_is_counted_nowhere(dispatcher):
  scheme = DISPATCHERS[dispatcher]()
  seen = given('top_k')
  routing = ROUTERS['top_k'](k=2)(seen)
  x_RD, _, note = scheme.dispatch(jnp.asarray(X_TD), routing, E)
  found = stats.observe(seen, routing, note.row_A < len(x_RD))
  assert found['count_E'].value().sum() == 2 * VALID_T.sum()
  assert found['dropped'].weight == 2 * VALID_T.sum()
  padding_A = ~VALID_T[np.asarray(routing.token_A)]
  assert (np.asarray(note.row_A)[padding_A] >= len(x_RD)).all()


@EACH_ROUTER
def test_what_cannot_choose_says_so_in_one_line(router):
  """One expert is too few for most; who accepts it can route with it."""
  scheme = ROUTERS[router]()
  refusal = None
  try:
    scheme.check(1)
  except errors.InputError as error:
    refusal = str(error)
  if refusal is not None:
    assert '\n' not in refusal
    assert '1' in refusal
    return
  seen = tiny.router_input(
    np.zeros((T, scheme.num_logits(1)), np.float32),
    row_length=L,
    extra_scores={
      name: jnp.zeros((T, num))
      for name, (_, num) in scheme.extra_scorers(1).items()
    },
    token_T=jnp.asarray(TOKEN_T),
  )
  assert np.isfinite(route(router, seen).weight_A).all()


def test_noise_depends_on_key_and_index_alone():
  whole = given('top_k')
  draw = lambda seen, **more: np.asarray(noise.uniform(seen, 3, **more))
  noise_TN = draw(whole)
  assert noise_TN.shape == (T, 3)
  assert ((noise_TN >= 0) & (noise_TN < 1)).all()
  assert len(np.unique(noise_TN)) == noise_TN.size
  half = dataclasses.replace(whole, index_T=whole.index_T[8:])
  np.testing.assert_array_equal(draw(half), noise_TN[8:])
  other = dataclasses.replace(whole, key=jax.random.key(6))
  assert (draw(other) != noise_TN).all()
  assert (draw(whole, salt=1) != noise_TN).all()
