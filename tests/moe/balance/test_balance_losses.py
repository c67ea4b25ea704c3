"""Every balance loss against numbers worked by hand."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import balance as values
from helpers import tiny
from helpers.balance import L0, best, loss, problem, sigmoid, softmax, top

from moejax.moe.balance.adaptive_l1 import AdaptiveL1
from moejax.moe.balance.gshard import GShardAux
from moejax.moe.balance.load import (
  Communication,
  DeviceLevel,
  ExpertLevel,
  SequenceLevel,
)
from moejax.moe.balance.logits import Entropy, TokenEntropy, ZLoss
from moejax.moe.balance.selector_entropy import SelectorEntropy
from moejax.moe.balance.stable_moe import StableMoELoss
from moejax.moe.balance.switch import SwitchLoss
from moejax.moe.balance.ternary_choice import TernaryChoice
from moejax.moe.balance.two_level import TwoLevelImportance
from moejax.moe.balance.variation import Importance, Load
from moejax.moe.balance.zero_computation import Groups, Weighted
from moejax.moe.contract import RouterState

P0, S0 = softmax(L0), sigmoid(L0)

# Two tokens of four experts, K = 2; a third is padding and counts nowhere.
PROB_TE = np.array([
  [0.5, 0.3, 0.1, 0.1],
  [0.2, 0.1, 0.6, 0.1],
  [0.0, 0.0, 0.0, 1.0],
])
EXPERT_TK = np.array([[0, 1], [2, 0], [3, 2]])
VALID_T = np.array([True, True, False])


def value(part, given, routing):
  return float(values.value(part, given, routing))


def even(num_experts, k, rounds=3):
  """Probabilities all alike; token t has experts t, t + 1, ... t + k - 1."""
  token_T1 = np.arange(rounds * num_experts)[:, None]
  expert_TK = (token_T1 + np.arange(k)) % num_experts
  return np.full((len(expert_TK), num_experts), 1 / num_experts), expert_TK


@pytest.mark.parametrize(('num_experts', 'k'), [(4, 1), (6, 2), (8, 8)])
@pytest.mark.parametrize(
  ('part', 'want'),
  [
    # DeepSeekMoE, V2, V3, seq_aux of the released 16B
    (ExpertLevel(1.0), lambda n, k: 1),
    (SequenceLevel(1.0), lambda n, k: 1),
    (DeviceLevel(1.0, 2), lambda n, k: 1),
    # Switch; GShard's is 1 / E^2, times E^2 as in praxis
    (SwitchLoss(1.0), lambda n, k: 1),
    (GShardAux(1.0), lambda n, k: 1),
    # flaxformer's top-k; transformers' Mixtral, a sum over the k places
    (SwitchLoss(1.0, 'multi_hot'), lambda n, k: k),
    # MoE++ has no factor N / K
    (Weighted(1.0, num_zero=0), lambda n, k: k / n),
    (Groups(1.0, num_groups=2), lambda n, k: 1),
    (Importance(1.0), lambda n, k: 0),
    (Load(1.0), lambda n, k: 0),
    (Entropy(1.0), lambda n, k: -math.log(n)),
    (TokenEntropy(1.0), lambda n, k: math.log(n)),
    # with logits of zero
    (ZLoss(1.0), lambda n, k: math.log(n) ** 2),
  ],
  ids=lambda x: getattr(type(x), '__name__', '') if not callable(x) else '',
)
def test_balanced_routing(part, want, num_experts, k):
  """The table of what each paper's normalisation gives."""
  got = loss(part, *even(num_experts, k))
  assert got == pytest.approx(want(num_experts, k), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(('num_experts', 'k'), [(4, 1), (8, 2), (63, 7)])
def test_collapse_onto_k_experts_is_the_coefficient_times_n_over_k(
  num_experts, k
):
  expert_TK = np.tile(np.arange(k), (5, 1))
  prob_TE = np.tile(np.arange(num_experts) < k, (5, 1)) / k
  for part in (ExpertLevel(0.3), SequenceLevel(0.3)):
    got = loss(part, prob_TE, expert_TK)
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


@pytest.mark.parametrize(
  ('part', 'want'),
  [
    # Chosen (2, 1, 1, 0) times; f = 4 / (2 * 2) * that; P = (.35, .2, .35, .1).
    # 2 * .35 + 1 * .2 + 1 * .35 = 1.25
    (ExpertLevel(1.0), 1.25),
    (SequenceLevel(1.0), 1.25),
    # f' = ((2 + 1) / 2, (1 + 0) / 2), P' = (.55, .45): .825 + .225 = 1.05
    (DeviceLevel(1.0, 2), 1.05),
    # One group is always balanced; four groups are the experts themselves.
    (DeviceLevel(1.0, 1), 1.0),
    (DeviceLevel(1.0, 4), 1.25),
    # Sent to device 0 both, to device 1 the second: f'' = 2 / (2 * 2) (2, 1).
    # 1 * .55 + .5 * .45 = .775
    (Communication(1.0, 2, 2), 0.775),
    # c = (1, 0, 1, 0), S = 2, m = P: 4^2 * 1/4 (.5 * .35 + .5 * .35) = 1.4
    (GShardAux(1.0), 1.4),
    (SwitchLoss(1.0), 1.4),
    # 4 * ((2 * .35 + .2 + .35) / 2) = 2.5
    (SwitchLoss(1.0, 'multi_hot'), 2.5),
    # The weights are 1, so the mean gate is f: 4 * (1 + .25 + .25) = 6
    (SwitchLoss(1.0, 'masked'), 6.0),
    # eta = (1, 1, .5, .5), f = (1, .5, .5, 0): .35 + .1 + .0875 = .5375
    (Weighted(1.0, 0.5, 2), 0.5375),
    # Groups {0, 1} and {2, 3}: 3 picks of 4 and 1. Wanted are 3/4 and 1/4, so
    # f = (1, 1) and the loss .55 + .45; wanted 1/2 and 1/2, f = (1.5, .5).
    (Groups(1.0, 1, 2, 0.75), 1.0),
    (Groups(1.0, 1, 2, 0.5), 1.05),
    # Groups {0}, {1}, and {2, 3}: f = 2 / (.5 * 4) (2, 1) = (2, 1), and .5.
    # 2 * .35 + .2 + .5 * .45 = 1.125
    (Groups(1.0, 2, 2, 0.5), 1.125),
    # (2, 1, 1, 0) has mean 1, variance 1/2, or 2/3 over E - 1.
    # -(.5 ln .5 + .3 ln .3 + .2 ln .1) = .34657 + .36119 + .46052 = 1.16828
    # -(.2 ln .2 + .2 ln .1 + .6 ln .6) = .32189 + .46052 + .30650 = 1.08890
    (TokenEntropy(1.0), (1.168282 + 1.088900) / 2),
    (Importance(1.0), 0.5),
    (Load(1.0), 0.5),
    (Importance(1.0, unbiased=True), 2 / 3),
  ],
)
def test_worked_numbers_without_padding(part, want):
  got = loss(part, PROB_TE, EXPERT_TK, VALID_T)
  assert got == pytest.approx(want, rel=1e-6)
  assert loss(part, PROB_TE[:2], EXPERT_TK[:2]) == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize(
  ('part', 'want'),
  [
    (ExpertLevel(1.0), 1.07786),
    (SequenceLevel(1.0), 1.07786),
    (SwitchLoss(1.0, 'multi_hot'), 2.15572),
    (GShardAux(1.0), 16 * 0.0716365),
    (SwitchLoss(1.0), 1.146185),
    (ZLoss(1.0), 6.24336),
    (Entropy(1.0), -1.343638),
    (Importance(1.0, 'probabilities'), 0.078649),
  ],
)
def test_the_three_tokens(part, want):
  """Logits L0 under softmax top-2: picks {0, 1}, {2, 3} and {1, 0}."""
  assert value(part, *top(L0, 2)) == pytest.approx(want, rel=1e-5)


def test_token_entropy_is_of_each_token_and_entropy_of_their_mean():
  """Two sure tokens at different experts: 0, where their mean has ln 2."""
  prob_TE, expert_TK = np.eye(4)[:2], [[0], [1]]
  assert loss(TokenEntropy(1.0), prob_TE, expert_TK) == 0
  sure = 60 * prob_TE
  got = loss(Entropy(1.0), prob_TE, expert_TK, logits_TE=sure)
  assert got == pytest.approx(-math.log(2), rel=1e-5)


def test_devicelimited_routing_of_the_three_tokens():
  """Devices 0, 1, 0 by the largest probability, then both experts there."""
  expert_TK = [[0, 1], [2, 3], [1, 0]]
  for part in (
    ExpertLevel(1.0),
    DeviceLevel(1.0, 2, 'sequence'),
    Communication(1.0, 2, 1),
  ):
    assert loss(part, P0, expert_TK) == pytest.approx(1.07786, rel=1e-5)
  # M = 1 for tokens that all go to two devices is twice as much as it should.
  both = [[0, 2], [1, 3], [0, 3]]
  assert loss(Communication(1.0, 2, 1), P0, both) == pytest.approx(2, rel=1e-6)
  assert loss(Communication(1.0, 2, 2), P0, both) == pytest.approx(1, rel=1e-6)


def test_global_batch_loss_is_the_mean_of_micro_batches_with_global_counts():
  """Micro-batch 1 is L0; f over both is (1/6, 1/6, 1/3, 1/3)."""
  other = np.array([[0, 0, 1, 2.0], [0.5, 0, 1.5, 1], [0, -1, 2, 2.5]])
  part = ExpertLevel(1.0)
  assert value(part, *top(L0, 2)) == pytest.approx(1.077861, rel=1e-5)
  assert value(part, *top(other, 2)) == pytest.approx(1.667029, rel=1e-5)
  both = top(np.concatenate([L0, other]), 2, row_length=3)
  assert value(part, *both) == pytest.approx(1.072241, rel=1e-5)
  # What sequence-wise balance of the same two rows is instead.
  assert value(SequenceLevel(1.0), *both) == pytest.approx(1.372445, rel=1e-5)


def test_sequence_level_is_v3s():
  """Scores are sigmoids over their sum; bias .3 moves the choice, not f."""
  prob_TE = S0 / S0.sum(axis=1, keepdims=True)
  part = SequenceLevel(1.0)
  unbiased = best(S0, 2)
  got = loss(part, prob_TE, unbiased)
  assert got == pytest.approx(1.039342, rel=1e-5)
  biased = best(S0 + [0, 0, 0.3, 0], 2)
  np.testing.assert_array_equal(biased, [[0, 2], [2, 3], [2, 1]])
  assert loss(part, prob_TE, biased) != pytest.approx(1.039342, rel=1e-3)
  got = loss(part, prob_TE, biased, extra={'unbiased_TK': unbiased})
  assert got == pytest.approx(1.039342, rel=1e-5)


def test_sequence_level_of_raw_sigmoids():
  """f = (4, 4, 2, 2) / 3; mean sigmoids .70397 .75993 .66776 .52885."""
  part = SequenceLevel(1.0, 'sigmoid')
  want = (4 * (0.70397 + 0.75993) + 2 * (0.66776 + 0.52885)) / 3
  given, routing = problem(P0, best(S0, 2), logits_TE=L0)
  assert value(part, given, routing) == pytest.approx(want, rel=1e-4)


def test_sequences_of_padding_are_left_out():
  """Three rows, the last of which is padding: the mean is over two."""
  rows = np.concatenate([L0, L0[::-1] * 2, L0])
  valid_T = np.arange(9) < 6
  for part in (
    SequenceLevel(1.0),
    Communication(1.0, 2, 1),
    DeviceLevel(1.0, 4, 'sequence'),
    Groups(1.0, 2, 2, 0.6),
    Entropy(1.0, 'sequence'),
    GShardAux(1.0),
  ):
    whole = value(part, *top(rows, 2, valid_T=valid_T, row_length=3))
    one_by_one = [value(part, *top(rows[s : s + 3], 2)) for s in (0, 3)]
    assert whole == pytest.approx(np.mean(one_by_one), rel=1e-6)
    assert abs(one_by_one[0] - one_by_one[1]) > 1e-3


def test_noisy_top_k():
  """Gates and load of the example with noise of deviation ln 2."""
  gate_TE = np.array([
    [0.8394, 0, 0.1606, 0],
    [0, 0, 0.4519, 0.5481],
    [0.4617, 0.5383, 0, 0],
  ])
  load_TE = np.array([
    [0.9740, 0.6710, 0.1729, 0.0073],
    [0.0020, 0.0746, 0.8271, 0.5876],
    [0.7328, 0.9103, 0.1784, 0.0502],
  ])
  expert_TK = [[0, 2], [3, 2], [1, 0]]
  weight_TK = np.take_along_axis(gate_TE, np.array(expert_TK), axis=1)
  extra = {'gate_TE': gate_TE, 'load_TE': load_TE}
  for part, want in (
    (Importance(1.0), 0.181403),
    (Importance(1.0, unbiased=True), 0.241872),
    (Load(1.0), 0.109575),
    (Load(1.0, unbiased=True), 0.146099),
  ):
    got = loss(part, P0, expert_TK, extra=extra)
    assert got == pytest.approx(want, rel=2e-3)
  # What the router reports counts, not the assignments' weights.
  got = loss(Importance(1.0), P0, expert_TK, extra={'gate_TE': P0})
  assert got == pytest.approx(0.078649, rel=1e-5)
  # Gates that the router does not report are those of the assignments.
  got = loss(Importance(1.0), P0, expert_TK, weight_TK=weight_TK)
  assert got == pytest.approx(0.181403, rel=2e-3)


def test_gradient_of_importance_goes_through_the_weights():
  given, routing = problem(P0, best(P0, 2), weight_TK=np.sort(P0)[:, :1:-1])

  def of(weight_A):
    return Importance(1.0).loss(
      Importance(1.0).observe(
        given, dataclasses.replace(routing, weight_A=weight_A)
      )
    )

  gradient_A = jax.grad(of)(routing.weight_A)
  # An expert of more importance than the mean is to have less.
  over = np.zeros(4)
  np.add.at(over, routing.expert_A, routing.weight_A)
  sign_E = np.sign(over - over.mean())
  np.testing.assert_array_equal(
    np.sign(gradient_A), sign_E[np.asarray(routing.expert_A)]
  )


@pytest.mark.parametrize(('tau', 'want'), [(0.75, 0.466078), (1.0, 0.526222)])
def test_moe_plus_plus(tau, want):
  """Experts 2 and 3 compute nothing; logits with their residual."""
  logits = [[2, 1.5, 0, -0.5], [0.5, 1, 2, 1.5], [1, 1.5, 1.5, 0]]
  got = value(Weighted(1.0, tau, 2), *top(np.array(logits), 2))
  assert got == pytest.approx(want, rel=1e-5)


def test_ternary_choice():
  """Counts of both signs add up; null choices count for the reward alone.

  Token 0 picks -0 and +0, token 1 null and +1: f = 2 / 3 * (2, 1).
  """
  extra = {
    'folded_TE': [[0.3144 + 0.3841, 0.1157 + 0.0702], [0.0384, 0.1717]],
    'null_T': [0.1157, 0.7899],
    'copies_TE': [[2, 0], [0, 1]],
  }
  expert_TK = [[0, 2], [2, 1]]
  prob_TE = np.full((2, 2), 0.5)
  got = loss(TernaryChoice(1.0), prob_TE, expert_TK, extra=extra)
  want = (4 / 3 * (0.6985 + 0.0384) + 2 / 3 * (0.1859 + 0.1717)) / 2
  assert got == pytest.approx(want, rel=1e-5)
  got = loss(TernaryChoice(0.0, 1.0), prob_TE, expert_TK, extra=extra)
  assert got == pytest.approx(-(0.1157 + 0.7899) / 2, rel=1e-5)
  # Without null: shares 2/3 and 1/3, and each token's P over its sum.
  share_TE = np.array([
    [0.6985 / 0.8844, 0.1859 / 0.8844],
    [0.0384 / 0.2101, 0.1717 / 0.2101],
  ])
  part = TernaryChoice(1.0, form='without_null')
  got = loss(part, share_TE, expert_TK, extra=extra)
  want = (2 * share_TE[:, 0] + share_TE[:, 1]).mean() / 3
  assert got == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize('form', ['with_null', 'without_null'])
def test_mass_on_null_lowers_one_form_of_ternary_choice(form):
  """Balanced: two experts, chosen alike. alpha (1 - P_null), and alpha / E."""
  part = TernaryChoice(1.0, form=form)
  for null in (0.0, 0.4, 0.9):
    extra = {
      'folded_TE': np.full((2, 2), (1 - null) / 2),
      'null_T': [null] * 2,
      'copies_TE': [[1, 0], [0, 1]],
    }
    got = loss(part, np.full((2, 2), 0.5), [[0], [1]], extra=extra)
    want = {'with_null': 1 - null, 'without_null': 0.5}[form]
    assert got == pytest.approx(want, rel=1e-6)


def test_ternary_choice_without_null_is_libmoes_over_the_number_of_sequences():
  """Its code, as loops: counts of the whole batch over a sequence's choices."""
  rng = np.random.default_rng(0)
  sequences, length, num = 3, 4, 5
  p_SLC = rng.dirichlet(np.ones(2 * num + 2), size=(sequences, length))
  # Each token chooses one copy that is not null, so all have as many.
  choice_SL = rng.integers(2 * num, size=(sequences, length))
  libmoe = []
  for p_LC in p_SLC:
    share_E = [np.sum(choice_SL % num == e) / length for e in range(num)]
    kept_LC = p_LC[:, : 2 * num] / p_LC[:, : 2 * num].sum(1, keepdims=True)
    p_C = kept_LC.mean(axis=0)
    libmoe.append(sum(share_E[e] * (p_C[e] + p_C[num + e]) for e in range(num)))
  p_TC = p_SLC.reshape(-1, 2 * num + 2)
  folded_TE = p_TC[:, :num] + p_TC[:, num : 2 * num]
  base_T = choice_SL.reshape(-1) % num
  extra = {
    'folded_TE': folded_TE,
    'null_T': p_TC[:, 2 * num :].sum(axis=1),
    'copies_TE': np.eye(num)[base_T],
  }
  share_TE = folded_TE / folded_TE.sum(axis=1, keepdims=True)
  part = TernaryChoice(1.0, form='without_null')
  got = loss(part, share_TE, base_T[:, None], extra=extra)
  assert sequences * got == pytest.approx(np.mean(libmoe), rel=1e-5)


def test_selector_entropy():
  extra = {'selector_entropy_T': [1.5, 0.5, 9], 'unreachable_T': [1.0, 3, 9]}
  of = lambda part: loss(part, PROB_TE, EXPERT_TK, VALID_T, extra=extra)
  assert of(SelectorEntropy(0.1, 0.0)) == pytest.approx(0.1, rel=1e-6)
  assert of(SelectorEntropy(0.0, 0.5)) == pytest.approx(1.0, rel=1e-6)


def test_stable_moe():
  """Top-1 of L0 is 0, 2, 1 with sigmoids .8808, .8808, .8176; n = .75.

  (1 - .75) / .75 of their sum is .859723, over three tokens.
  """
  first = np.argmax(L0, axis=1)
  chosen_TE = np.eye(4)[first]
  extra = {'stable_TE': chosen_TE * S0, 'distill_T': [1.0, 2.0, 6.0]}
  of = lambda part: loss(part, P0, first[:, None], extra=extra)
  assert 3 * of(StableMoELoss(1.0, 0.0)) == pytest.approx(0.859723, rel=1e-5)
  assert of(StableMoELoss(0.0, 0.3)) == pytest.approx(0.9, rel=1e-6)


def test_two_level_importance():
  """Groups have importance 2 and 1; inside them (1, 1) and (1/4, 3/4).

  CV^2: 1/9, and (0 + 1/4) / 2. The third token is not sent to group 0, so what
  it would have chosen there does not count.
  """
  extra = {
    'outer_TG': [[1.0, 0], [1, 0], [0, 1]],
    'inner_TE': [[1.0, 0, 1, 0], [0, 1, 1, 0], [1, 0, 0.25, 0.75]],
  }
  got = loss(TwoLevelImportance(1.0), P0, best(P0, 1), extra=extra)
  assert got == pytest.approx(1 / 9 + 1 / 8, rel=1e-6)


@pytest.mark.parametrize(
  ('form', 'want'), [('refined', 1.944444), ('plain', 1.583333)]
)
def test_adaptive_l1(form, want):
  """R = relu(L0 - .75); f = (4/3, 2, 2/3, 2/3); lambda is remembered."""
  relu_TE = np.maximum(L0 - 0.75, 0)
  state = RouterState(kept={'l1': jnp.float32(0.5)})
  given, routing = problem(
    P0, best(P0, 2), extra={'relu_TE': relu_TE}, own_state=state
  )
  part = AdaptiveL1(form=form)
  assert value(part, given, routing) == pytest.approx(want / 2, rel=1e-5)
  # The gradient of every R is lambda * f / T; there is none through lambda.
  f_E = np.array([4, 6, 2, 2]) / 3 if form == 'refined' else np.ones(4)

  def of(relu_TE, weight):
    extra = {'relu_TE': relu_TE}
    state = RouterState(kept={'l1': weight})
    return part.loss(
      part.observe(
        dataclasses.replace(given, own_state=state),
        dataclasses.replace(routing, extra=extra),
      )
    )

  gradient, of_weight = jax.grad(of, (0, 1))(
    routing.extra['relu_TE'], jnp.float32(0.5)
  )
  np.testing.assert_allclose(gradient, [0.5 * f_E / 3] * 3, rtol=1e-5)
  assert of_weight == 0
  # Nor through sums, which micro-batches are differentiated at.
  slope = jax.grad(part.loss)(part.observe(given, routing))
  zero = {name: slope[name] for name in ('active_E', 'weight', 'tokens')}
  tiny.assert_close(zero, jax.tree.map(np.zeros_like, zero))
