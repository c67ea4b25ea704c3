"""Selection biases and other states of balance parts, from batch to batch."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.balance import (
  best,
  max_violation,
  observe,
  problem,
  rich,
  sigmoid,
  softmax,
)

from moejax.core import errors
from moejax.moe.balance.adaptive_l1 import AdaptiveL1
from moejax.moe.balance.bias import LossFree, ShareBias
from moejax.moe.balance.quantile import Quantile
from moejax.moe.balance.smebu import Smebu
from moejax.moe.contract import RouterState


@functools.partial(jax.jit, static_argnums=0)
def update(part, state, sums):
  return part.update(state, sums)


@functools.partial(jax.jit, static_argnums=0)
def _after(part, state, given, routing):
  layers = lambda tree: jax.tree.map(lambda x: x[None], tree)
  new = part.update(layers(state), layers(part.observe(given, routing)))
  return jax.tree.map(lambda x: x[0], new)


def after(part, state, score_TE, k, *, logits_TE, valid_T=None):
  """The state of one layer after a batch that was chosen with its bias."""
  bias_E = state.selection_bias_E
  expert_TK = best(score_TE + np.asarray(bias_E), k)
  given, routing = problem(
    softmax(logits_TE),
    expert_TK,
    valid_T,
    logits_TE=logits_TE,
    own_state=state,
    selection_bias_E=bias_E,
  )
  return _after(part, state, given, routing)


def load(score_TE, bias_E, k):
  expert_TK = best(score_TE + np.asarray(bias_E), k)
  return np.bincount(expert_TK.reshape(-1), minlength=score_TE.shape[1])


def updated(part, count_NE, bias_NE=0.0, steps=0.0):
  count_NE = np.asarray(count_NE, np.float32)
  state = RouterState(
    np.zeros_like(count_NE) + np.asarray(bias_NE, np.float32),
    {'steps': np.full(len(count_NE), steps, np.float32)},
  )
  return update(part, state, {'count_E': count_NE})


@pytest.mark.parametrize(
  ('part', 'want_E'),
  [
    (LossFree(), [0.001, 0.001, 0.299, 0.001]),
    # rate * (mean - load) of .0005 and -.0015 in tokens, at a mean of 1.5
    (
      LossFree(rate=1.5e-3, rule='proportional'),
      [0.0005, 0.0005, 0.2985, 0.0005],
    ),
  ],
)
def test_loss_free_worked_example(part, want_E):
  """Loads (1, 1, 3, 1) with b = (0, 0, .3, 0); another layer is even."""
  bias_NE = [[0, 0, 0.3, 0], [0.5, 0, 0, 0]]
  got = updated(part, [[1, 1, 3, 1], [2, 2, 2, 2]], bias_NE)
  np.testing.assert_allclose(got.selection_bias_E[0], want_E, rtol=1e-5)
  np.testing.assert_allclose(got.selection_bias_E[1], bias_NE[1])
  np.testing.assert_array_equal(got.kept['steps'], [1, 1])


def test_loss_free_stops():
  part = LossFree(stop_after=2)
  for steps, moves in ((0, True), (1, True), (2, False), (9, False)):
    got = updated(part, [[3, 1]], steps=steps)
    assert bool(np.any(got.selection_bias_E)) == moves
    assert got.kept['steps'] == steps + 1


def smebu_updated(part, count_NE, bias_NE=0.0, momentum_NE=0.0):
  count_NE = np.asarray(count_NE, np.float32)
  fill = lambda x: np.zeros_like(count_NE) + np.asarray(x, np.float32)
  state = RouterState(fill(bias_NE), {'momentum_E': fill(momentum_NE)})
  return update(part, state, {'count_E': count_NE})


def test_smebu_worked_example():
  """Loads (4, 3, 1, 8), mean 4: v = (0, .25, .75, -1).

  tanh(2 v) = (0, .462117, .905148, -.964028), of mean .100809. Times the rate
  of .1 without the mean: d = (-.010081, .036131, .080434, -.106484). The first
  step is half of that, the second, with the same loads, (1/4 + 1/2) d.
  """
  part = Smebu(rate=0.1)
  d_E = np.array([-0.0100809, 0.0361308, 0.0804339, -0.1064837])
  loads = [[4, 3, 1, 8], [5, 5, 5, 5]]
  one = smebu_updated(part, loads)
  np.testing.assert_allclose(one.selection_bias_E[0], d_E / 2, rtol=1e-4)
  np.testing.assert_allclose(one.kept['momentum_E'][0], d_E / 2, rtol=1e-4)
  np.testing.assert_array_equal(
    one.selection_bias_E[1], 0
  )  # the other layer is even
  two = smebu_updated(part, loads, one.selection_bias_E, one.kept['momentum_E'])
  np.testing.assert_allclose(two.kept['momentum_E'][0], 0.75 * d_E, rtol=1e-4)
  np.testing.assert_allclose(two.selection_bias_E[0], 1.25 * d_E, rtol=1e-4)
  # A batch of padding says nothing.
  kept = smebu_updated(part, [[0, 0, 0, 0]], d_E, d_E)
  np.testing.assert_allclose(kept.selection_bias_E[0], d_E, rtol=1e-6)
  np.testing.assert_allclose(kept.kept['momentum_E'][0], d_E, rtol=1e-6)


def test_smebu_of_a_steep_clamp_is_the_sign_rule_without_its_mean():
  """And of a flat one the proportional rule: both are those of loss_free."""
  loads = [[4, 3, 1, 8], [2, 9, 2, 3]]
  for part, rule in (
    (Smebu(rate=0.1, kappa=1e3, momentum=0.0), LossFree(0.1)),
    (Smebu(100.0, kappa=1e-3, momentum=0.0), LossFree(0.1, 'proportional')),
  ):
    got = smebu_updated(part, loads).selection_bias_E
    want = updated(rule, loads).selection_bias_E
    want = want - want.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-7)


def test_smebu_comes_to_rest_where_the_sign_rule_goes_on():
  """Loads that answer the bias: 4 + 40 times an expert's own offset and bias.

  The sign rule steps by its rate for ever; here steps fade.
  """
  offset_E = np.array([0.05, -0.02, 0.0, -0.03])
  load_E = lambda bias_E: 4 + 40 * (offset_E + np.asarray(bias_E))
  bias_NE, momentum_NE = np.zeros((2, 1, 4))
  sign_NE = np.zeros((1, 4))
  for _ in range(200):
    got = smebu_updated(Smebu(rate=0.01), load_E(bias_NE), bias_NE, momentum_NE)
    bias_NE, momentum_NE = got.selection_bias_E, got.kept['momentum_E']
    sign_NE = updated(LossFree(0.01), load_E(sign_NE), sign_NE).selection_bias_E
  np.testing.assert_allclose(load_E(bias_NE)[0], 4, atol=1e-3)
  assert np.max(np.abs(load_E(sign_NE) - 4)) > 0.1


def test_share_bias_worked_example():
  """Experts 0 and 1 have weights; K = 2 of 3 tokens, K_e = 1."""
  part = ShareBias(rate=0.01, num_zero=2, ffn_share=0.5)
  count_NE = jnp.array([[2.0, 2, 1, 1], [1.5, 1.5, 3, 0]])
  state = RouterState(jnp.tile(jnp.array([0.1, 0, 0, 0]), (2, 1)))
  got = part.update(state, {'count_E': count_NE}).selection_bias_E
  step = 0.01 * (1 / 4 - 2 / 6)
  assert step == pytest.approx(-0.000833, rel=1e-3)
  np.testing.assert_allclose(
    got, [[0.1 + step, step, 0, 0], [0.1, 0, 0, 0]], rtol=1e-5
  )


# Eight experts of very different popularity.
RNG = np.random.default_rng(0)
SKEWED = RNG.normal(size=(256, 8)) + np.linspace(-2, 2, 8)


@pytest.mark.parametrize(
  ('part', 'batches'),
  [
    # The farthest bias has some .4 to go.
    (LossFree(rate=0.005), 80),
    (LossFree(rate=0.05, rule='proportional'), 12),
    (ShareBias(rate=0.4), 12),
  ],
  ids=['sign', 'proportional', 'share'],
)
def test_bias_rules_balance_skewed_scores(part, batches):
  """Batch after batch; the scores themselves stay as they are."""
  score_TE = sigmoid(SKEWED)
  bias_NE = part.initial_state(8).selection_bias_E[None]
  seen = []
  for step in range(batches):
    count_E = load(score_TE, bias_NE[0], 2)
    seen.append(max_violation(count_E))
    bias_NE = updated(part, count_E[None], bias_NE, step).selection_bias_E
  assert seen[0] > 2
  assert seen[-1] < 0.1


def test_share_bias_finds_the_share_of_experts_with_weights():
  """Two of eight are identity experts, to have a quarter of what is chosen.

  They like to have two thirds, and are in no balance between themselves.
  """
  part = ShareBias(rate=0.4, num_zero=2, ffn_share=0.75)
  score_TE = sigmoid(SKEWED)
  bias_NE = part.initial_state(8).selection_bias_E[None]
  for _ in range(60):
    count_E = load(score_TE, bias_NE[0], 2)
    bias_NE = updated(part, count_E[None], bias_NE).selection_bias_E
  np.testing.assert_array_equal(bias_NE[0, 6:], 0)
  assert count_E[:6].sum() / count_E.sum() == pytest.approx(0.75, abs=0.01)
  assert max_violation(count_E[:6]) < 0.05
  assert max_violation(count_E[6:]) > 0.3


QUANTILE_LOGITS = np.array([
  [2.03, 1.11, 0.07, -0.97],
  [0.05, 1.02, 2.10, 1.57],
  [1.08, 1.46, 0.53, 0.12],
  [0.49, 0.02, -0.61, 0.94],
])


def test_quantile_worked_example():
  """Loads (3, 2, 1, 2), the same once more, then even, and they stay."""
  part = Quantile()
  score_TE = sigmoid(QUANTILE_LOGITS)
  state = part.initial_state(4)
  seen = []
  for want in (
    [-0.0651, -0.0401, 0.0509, 0.0543],
    [-0.0765, -0.0515, 0.0851, 0.0429],
    None,
    None,
  ):
    seen.append(load(score_TE, state.selection_bias_E, 2).tolist())
    state = after(part, state, score_TE, 2, logits_TE=QUANTILE_LOGITS)
    if want is not None:
      # A bin is (2 + max b - min b) / 1000 wide.
      np.testing.assert_allclose(state.selection_bias_E, want, atol=2.2e-3)
  assert seen == [[3, 2, 1, 2], [3, 2, 1, 2], [2, 2, 2, 2], [2, 2, 2, 2]]


@pytest.mark.parametrize(
  ('part', 'score'),
  [
    (Quantile(), sigmoid),
    (Quantile('softmax'), softmax),
    (Quantile('logits', reach=8.0), lambda x: x),
  ],
  ids=['sigmoid', 'softmax', 'logits'],
)
def test_quantile_balances_in_a_few_steps(part, score):
  """The first takes two thirds of the violation, the next most of the rest.

  A quarter of the batch is padding that likes expert 0.
  """
  logits = np.concatenate([SKEWED, np.tile([9.0] + [0] * 7, (64, 1))])
  valid_T = np.arange(320) < 256
  score_TE = score(logits)
  state = part.initial_state(8)
  seen = []
  for _ in range(5):
    seen.append(max_violation(load(score_TE[:256], state.selection_bias_E, 2)))
    state = after(part, state, score_TE, 2, logits_TE=logits, valid_T=valid_T)
  assert seen[0] > 2
  assert seen[1] < seen[0] / 3
  assert seen[2] < seen[1] / 2.5
  assert seen[4] < 0.1
  assert abs(np.mean(state.selection_bias_E)) < 1e-5


def test_quantile_is_of_all_tokens_and_no_mean_of_quantiles():
  """Sums of two halves give the bias of the whole."""
  part = Quantile()
  whole = observe(part, *rich())
  halves = [observe(part, *rich(rows)) for rows in ([0, 1], [2, 3])]
  bias = lambda sums: part.update(
    RouterState(jnp.zeros((1, 5))), jax.tree.map(lambda x: x[None], sums)
  ).selection_bias_E[0]
  added = jax.tree.map(jnp.add, *halves)
  np.testing.assert_array_equal(bias(added), bias(whole))
  mean = np.mean([bias(half) for half in halves], axis=0)
  assert np.abs(mean - bias(whole)).max() > 0.02


def test_quantile_needs_k_choices():
  given, routing = rich()
  for change in ({'per_token': None}, {'per_token': 5}):
    with pytest.raises(errors.InputError, match='^needs a router in'):
      Quantile().observe(given, dataclasses.replace(routing, **change))


def test_adaptive_l1_is_one_number_for_all_layers():
  """Sparsities of .25 and .5 have mean .375; wanted are 1 - k / 4."""
  sums = {
    'active_E': jnp.array([[3.0, 3, 3, 0], [3, 3, 0, 0]]),
    'relu_E': jnp.ones((2, 4)),
    'weight': jnp.ones(2),
    'tokens': jnp.full(2, 3.0),
  }
  state = RouterState(kept={'l1': jnp.full(2, 1e-8)})
  for k, factor in ((2.0, 1.2), (2.5, 1 / 1.2), (3.0, 1 / 1.2)):
    got = AdaptiveL1(k=k).update(state, sums).kept['l1']
    np.testing.assert_allclose(got, 1e-8 * factor, rtol=1e-6)


def test_adaptive_l1_reaches_its_sparsity():
  """Gradient descent on the loss alone, from logits that are all positive."""
  part = AdaptiveL1(k=2.0, start=1e-3)
  logits_TE = jnp.asarray(1 + np.abs(RNG.normal(size=(32, 8))), jnp.float32)
  given, routing = problem(np.full((32, 8), 1 / 8), np.zeros((32, 1), int))

  def step(carry, _):
    logits_TE, state = carry

    def of(logits_TE):
      extra = {'relu_TE': jax.nn.relu(logits_TE)}
      sums = part.observe(
        dataclasses.replace(given, own_state=state),
        dataclasses.replace(routing, extra=extra),
      )
      # What the text wants: every logit larger, the early ones more.
      text = -0.05 * jnp.mean(logits_TE * jnp.linspace(2, 1, 8))
      return part.loss(sums) + text, sums

    gradient, sums = jax.grad(of, has_aux=True)(logits_TE)
    layers = jax.tree.map(lambda x: x[None], (state, sums))
    state = jax.tree.map(lambda x: x[0], part.update(*layers))
    sparsity = jnp.mean(logits_TE <= 0)
    return (logits_TE - 2 * gradient, state), (sparsity, state.kept['l1'])

  _, (sparsity, weight) = jax.jit(
    lambda carry: jax.lax.scan(step, carry, length=600)
  )((logits_TE, part.initial_state(8)))
  assert sparsity[0] == 0
  assert np.mean(sparsity[-100:]) == pytest.approx(1 - 2 / 8, abs=0.05)
  assert weight[-1] != weight[0]
