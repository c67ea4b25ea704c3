import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny

from moejax.core import errors
from moejax.moe import balance, contract
from moejax.moe.balance import BALANCE, DeviceLevel, ExpertLevel, GShardAux

EACH_LOSS = pytest.mark.parametrize('name', sorted(BALANCE))


def problem(prob_TE, expert_TK, valid_T=None, row_length=None):
  """What a loss observes when tokens choose these experts."""
  given = tiny.router_input(
    jnp.zeros(prob_TE.shape), valid_T=valid_T, row_length=row_length
  )
  expert_TK = jnp.asarray(expert_TK)
  routing = contract.token_choice(
    given,
    expert_TK,
    jnp.ones(expert_TK.shape),
    jnp.asarray(prob_TE, jnp.float32),
  )
  return given, routing


@functools.partial(jax.jit, static_argnums=0)
def observe(part, given, routing):
  return part.observe(given, routing)


def loss(part, *args, **kwargs):
  return float(_loss(part, *args, **kwargs))


@functools.partial(jax.jit, static_argnums=0)
def _loss(part, prob_TE, expert_TK, valid_T=None):
  return part.loss(part.observe(*problem(prob_TE, expert_TK, valid_T)))


def in_turn(num_experts, k, rounds=3):
  """Token t chooses experts t, t + 1, ... t + k - 1: all are chosen alike."""
  token_T1 = np.arange(rounds * num_experts)[:, None]
  return (token_T1 + np.arange(k)) % num_experts


@pytest.mark.parametrize(('num_experts', 'k'), [(4, 1), (6, 2), (8, 8)])
@pytest.mark.parametrize(
  'part', [ExpertLevel(0.3), DeviceLevel(0.3, 2), GShardAux(0.3)]
)
def test_balanced_is_the_coefficient(part, num_experts, k):
  expert_TK = in_turn(num_experts, k)
  prob_TE = np.full((len(expert_TK), num_experts), 1 / num_experts)
  assert loss(part, prob_TE, expert_TK) == pytest.approx(0.3, rel=1e-6)


@pytest.mark.parametrize(('num_experts', 'k'), [(4, 1), (8, 2), (63, 7)])
def test_collapse_onto_k_experts_is_the_coefficient_times_n_over_k(
  num_experts, k
):
  expert_TK = np.tile(np.arange(k), (5, 1))
  prob_TE = np.tile(np.arange(num_experts) < k, (5, 1)) / k
  got = loss(ExpertLevel(0.3), prob_TE, expert_TK)
  assert got == pytest.approx(0.3 * num_experts / k, rel=1e-6)


def test_collapse_onto_one_group_is_the_coefficient_times_groups():
  """Experts 0 and 1 of 8 are group 0 of 4, and share all load evenly."""
  expert_TK = np.tile([0, 1], (5, 1))
  prob_TE = np.tile([0.5, 0.5, 0, 0, 0, 0, 0, 0], (5, 1))
  got = loss(DeviceLevel(0.3, 4), prob_TE, expert_TK)
  assert got == pytest.approx(0.3 * 4, rel=1e-6)
  # Inside a group the balance does not matter.
  expert_TK = np.tile([0, 2, 4, 6], (5, 1))
  prob_TE = np.tile([0.25, 0, 0.25, 0, 0.25, 0, 0.25, 0], (5, 1))
  got = loss(DeviceLevel(0.3, 4), prob_TE, expert_TK)
  assert got == pytest.approx(0.3, rel=1e-6)


# Two tokens of four experts, K = 2; a third is padding and counts nowhere.
PROB_TE = np.array([
  [0.5, 0.3, 0.1, 0.1],
  [0.2, 0.1, 0.6, 0.1],
  [0.0, 0.0, 0.0, 1.0],
])
EXPERT_TK = np.array([[0, 1], [2, 0], [3, 2]])
VALID_T = np.array([True, True, False])


@pytest.mark.parametrize(
  ('part', 'want'),
  [
    # Chosen (2, 1, 1, 0) times; f = 4 / (2 * 2) * that; P = (.35, .2, .35, .1).
    # 2 * .35 + 1 * .2 + 1 * .35 = 1.25
    (ExpertLevel(1.0), 1.25),
    # f' = ((2 + 1) / 2, (1 + 0) / 2), P' = (.55, .45): .825 + .225 = 1.05
    (DeviceLevel(1.0, 2), 1.05),
    # One group is always balanced; four groups are the experts themselves.
    (DeviceLevel(1.0, 1), 1.0),
    (DeviceLevel(1.0, 4), 1.25),
    # c = (1, 0, 1, 0), S = 2, m = P: 4^2 * 1/4 (.5 * .35 + .5 * .35) = 1.4
    (GShardAux(1.0), 1.4),
  ],
)
def test_worked_numbers_without_padding(part, want):
  got = loss(part, PROB_TE, EXPERT_TK, VALID_T)
  assert got == pytest.approx(want, rel=1e-6)
  assert loss(part, PROB_TE[:2], EXPERT_TK[:2]) == pytest.approx(want, rel=1e-6)


@EACH_LOSS
def test_the_coefficient_scales(name):
  part = BALANCE[name]()
  key = dataclasses.fields(part)[0].name
  one = loss(dataclasses.replace(part, **{key: 1.0}), PROB_TE, EXPERT_TK)
  half = loss(dataclasses.replace(part, **{key: 0.5}), PROB_TE, EXPERT_TK)
  assert half == pytest.approx(one / 2, rel=1e-6)
  assert one > 0


@EACH_LOSS
def test_nothing_but_padding_is_finite(name):
  part = BALANCE[name]()

  def of(prob_TE):
    given, routing = problem(PROB_TE, EXPERT_TK, np.zeros(3, bool))
    routing = dataclasses.replace(routing, prob_TE=prob_TE)
    return part.loss(part.observe(given, routing))

  value, gradient = jax.jit(jax.value_and_grad(of))(jnp.asarray(PROB_TE))
  assert value == 0
  assert np.isfinite(gradient).all()


def random_problem(rows):
  """Rows of six tokens, five experts; each row has habits of its own."""
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(4, 6, 5)) + 2 * rng.normal(size=(4, 1, 5))
  prob_TE = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
  valid_T = np.arange(6) < np.array([6, 2, 5, 3])[:, None]
  prob_TE, valid_T = prob_TE[rows].reshape(-1, 5), valid_T[rows].reshape(-1)
  expert_TK = np.argsort(-prob_TE, axis=-1)[:, :2]
  return problem(prob_TE, expert_TK, valid_T, row_length=6)


@EACH_LOSS
def test_sums_of_the_parts_are_the_sums_of_the_whole(name):
  """Shards and micro-batches add up; losses of the parts would not."""
  part = BALANCE[name]()
  if name == 'device_level':
    part = DeviceLevel(num_groups=5)
  whole = observe(part, *random_problem([0, 1, 2, 3]))
  halves = [observe(part, *random_problem(r)) for r in ([0, 2], [1, 3])]
  added = jax.tree.map(np.add, *jax.device_get(halves))
  tiny.assert_close(added, whole, rtol=1e-6)
  if name != 'gshard_aux':  # which is a mean over groups, so linear
    mean = np.mean([part.loss(half) for half in halves])
    assert abs(mean - part.loss(whole)) > 1e-2 * part.loss(whole)


def test_gshard_aux_is_the_mean_over_groups():
  part = GShardAux(1.0)
  one_by_one = [part.loss(part.observe(*random_problem([r]))) for r in range(4)]
  whole = part.loss(part.observe(*random_problem([0, 1, 2, 3])))
  assert float(whole) == pytest.approx(np.mean(one_by_one), rel=1e-6)


def test_gshard_aux_leaves_out_groups_of_padding():
  part = GShardAux(1.0)
  given, routing = random_problem([0, 1])
  alone = part.loss(observe(part, *random_problem([0])))
  valid_T = given.valid_T.at[6:].set(False)
  expert_A = jnp.where(valid_T[routing.token_A], routing.expert_A, 5)
  given = dataclasses.replace(given, valid_T=valid_T)
  routing = dataclasses.replace(routing, expert_A=expert_A)
  got = part.loss(observe(part, given, routing))
  assert float(got) == pytest.approx(float(alone), rel=1e-6)


@EACH_LOSS
def test_the_gradient_goes_through_the_probabilities_alone(name):
  """d loss / d prob is coefficient * f_i / T: the counts are constants."""
  part = BALANCE[name]()

  def of(prob_TE):
    given, routing = problem(PROB_TE[:2], EXPERT_TK[:2])
    routing = dataclasses.replace(routing, prob_TE=prob_TE)
    return part.loss(part.observe(given, routing))

  gradient = jax.jit(jax.grad(of))(jnp.asarray(PROB_TE[:2], jnp.float32))
  f_E = {
    'expert_level': 0.01 * np.array([2.0, 1, 1, 0]),
    'device_level': 0.05 * np.ones(4),
    'gshard_aux': 0.01 * 4 * np.array([0.5, 0, 0.5, 0]),
  }[name]
  np.testing.assert_allclose(gradient, [f_E / 2] * 2, rtol=1e-6)


@functools.partial(jax.jit, static_argnums=0)
def layers(parts):
  """The sums of two layers, stacked: the worked example, and a balanced one."""
  expert_TK = in_turn(4, 2, rounds=1)
  one = balance.observe(parts, *problem(PROB_TE, EXPERT_TK, VALID_T))
  two = balance.observe(parts, *problem(np.full((4, 4), 0.25), expert_TK))
  return jax.tree.map(lambda a, b: jnp.stack([a, b]), one, two)


def test_total_is_the_sum_over_layers_and_reports_means():
  parts = (ExpertLevel(0.1), DeviceLevel(1.0, 2))
  total, by_name = balance.total(parts, layers(parts))
  assert float(total) == pytest.approx(0.1 * (1.25 + 1) + (1.05 + 1), rel=1e-6)
  assert {k: float(v) for k, v in by_name.items()} == pytest.approx({
    'expert_level': 0.1 * 2.25 / 2,
    'device_level': 2.05 / 2,
  })


def test_no_losses_are_zero():
  total, by_name = balance.total((), {})
  assert (float(total), by_name) == (0.0, {})


@EACH_LOSS
def test_a_missing_loss_is_an_error(name):
  others = tuple(cls() for n, cls in BALANCE.items() if n != name)
  parts = (*others, BALANCE[name]())
  with pytest.raises(
    KeyError, match=f"no layer reported balance loss '{name}'"
  ):
    balance.total(parts, layers(others))


def test_groups_must_divide_the_experts():
  DeviceLevel(num_groups=4).check(8)
  for groups in (3, 0):
    with pytest.raises(
      errors.InputError,
      match=f'num_groups={groups} does not divide the 8 routed experts evenly',
    ):
      DeviceLevel(num_groups=groups).check(8)


def test_gshard_aux_needs_first_choices():
  given, routing = problem(PROB_TE, EXPERT_TK)
  routing = dataclasses.replace(routing, per_token=None)
  with pytest.raises(errors.InputError, match='it needs a token choice router'):
    GShardAux().observe(given, routing)
