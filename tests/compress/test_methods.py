"""METHODS: two layers of four experts by hand, for every entry."""

import dataclasses

import numpy as np
import pytest
from helpers import expert_statistics, experts

from moejax.compress import METHODS, methods
from moejax.compress.choice import RouterNeeds
from moejax.compress.statistics import SUMS
from moejax.core import errors

# (s_t, {expert: (gate, norm of the output)}) of four tokens in each layer.
EVENTS = (
  [
    (0.5, {0: (0.75, 2), 1: (0.25, 4)}),
    (0.25, {0: (0.5, 1), 2: (0.5, 8)}),
    (0.0, {1: (0.75, 2), 2: (0.25, 4)}),
    (1.0, {1: (0.5, 1), 2: (0.5, 2)}),
  ],
  [
    (0.5, {0: (0.5, 2), 1: (0.5, 2)}),
    (0.5, {0: (0.5, 2), 1: (0.5, 2)}),
    (0.5, {0: (0.5, 2), 2: (0.5, 4)}),
    (0.5, {0: (0.5, 2), 3: (0.5, 32)}),
  ],
)
# By layer, a row for each expert: its logits over the four tokens.
LOGITS_NET = np.array([
  [[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]],
  [[1, 0, 0, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 1]],
])
# Expert 3 computes what expert 0 does.
OUTPUTS_ET = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]])
# By layer, the two hidden units of each expert, of width 1 in and out.
UNITS_NEF = np.array([
  [[1, 0], [2, 1], [1, -1], [4, 2]],
  [[8, 0], [0, 8], [4, 4], [0, 16]],
])
ROUTER_NDE = np.array([[[3, 0, 1, 0], [4, 2, 0, 0]], [[0, 1, 2, 3], [0] * 4]])
WEIGHTS = [
  {
    'w_in_EDF': units_EF[:, None].astype(float),
    'w_out_EFD': units_EF[:, :, None].astype(float),
    'w_DE': router_DE.astype(float),
  }
  for units_EF, router_DE in zip(UNITS_NEF, ROUTER_NDE, strict=True)
]


def _statistics():
  layers = [
    expert_statistics.of_events(events, 4, logits_ET.T)
    for events, logits_ET in zip(EVENTS, LOGITS_NET, strict=True)
  ]
  joined = {
    name: np.concatenate([getattr(layer, name) for layer in layers])
    for name in SUMS
  }
  gram_EE = OUTPUTS_ET @ OUTPUTS_ET.T
  return dataclasses.replace(
    layers[0], **joined, output_gram_NEE=np.stack([gram_EE, gram_EE])
  )


STATISTICS = _statistics()
# The experts that stay of layers 0 and 1 if two of each are kept.
KEPT = {
  # .875, 1, 2, 0 and 2, 1, 1, 8
  'easy_ep': ([1, 2], [0, 3]),
  # .5, .625, .625, 0 and 1, .5, .25, .25
  'easy_ep_no_norm': ([1, 2], [0, 1]),
  # 2, 3, 6, 0 and 4, 2, 2, 16
  'easy_ep_no_token': ([1, 2], [0, 3]),
  # shares of 3.875 and 12: .226, .258, .516, 0 and .167, .083, .083, .667
  'easy_ep_global': ([0, 1, 2], [3]),
  # 1.25, 1.5, 1.25, 0 and 2, 1, .5, .5; of equal ones the lower stays
  'gate_score': ([0, 1], [0, 1]),
  # 2, 3, 3, 0 and 4, 2, 1, 1
  'frequency': ([1, 2], [0, 1]),
  # 3, 7, 14, 0 and 8, 4, 4, 32
  'output_norm': ([1, 2], [0, 3]),
  # 5, 2, 1, 0 and 0, 1, 2, 3
  'router_norm': ([0, 1], [2, 3]),
  # shares, the best of each layer as 1: .25, 1, .375, 0 and 1, .25, .125, .125
  'm_smoe': ([0, 1, 2], [0]),
  'm_smoe_uniform': ([1, 2], [0, 1]),
  'm_smoe_unaligned': ([0, 1, 2], [0]),
  'm_smoe_plain': ([0, 1, 2], [0]),
  'm_smoe_ties': ([0, 1, 2], [0]),
  'm_smoe_weights': ([0, 1, 2], [0]),
  'm_smoe_outputs': ([0, 1, 2], [0]),
  'm_smoe_cut': ([1, 2], [0, 1]),
  'm_smoe_low_rank': ([0, 1, 2], [0]),
  'easy_ep_merge': ([1, 2], [0, 3]),
  'mc_smoe': ([0, 1, 2], [0]),
}
# By method, for both layers the merged expert of each old one; then the two
# hidden units of each merged expert of layer 1.
GROUPS = {
  # Units aligned with expert 0: (8, 0), (8, 0), (4, 4), (16, 0), by 4:2:1:1.
  'm_smoe': ([0, 1, 2, 2], [0, 0, 0, 0], [[8.5, 0.5]]),
  # Experts 0 and 2 by 4:1, 1 and 3 by 2:1 in the order of expert 1.
  'm_smoe_uniform': ([0, 0, 1, 1], [0, 1, 0, 1], [[7.2, 0.8], [0, 32 / 3]]),
  'm_smoe_unaligned': ([0, 1, 2, 2], [0, 0, 0, 0], [[4.5, 4.5]]),
  'm_smoe_plain': ([0, 1, 2, 2], [0, 0, 0, 0], [[9, 1]]),
  # Differences (-4, 4) and (8, 0): both signs are +, so 8 and 4 are added.
  'm_smoe_ties': ([0, 1, 2, 2], [0, 0, 0, 0], [[16, 4]]),
  # Expert 3 of layer 0 is twice expert 1.
  'm_smoe_weights': ([0, 1, 2, 1], [0, 0, 0, 0], [[8.5, 0.5]]),
  'm_smoe_outputs': ([0, 1, 2, 0], [0, 0, 0, 0], [[8.5, 0.5]]),
  'm_smoe_cut': ([0, 0, 1, 1], [0, 1, 0, 1], [[7.2, 0.8], [0, 32 / 3]]),
  # The merged matrices, of which factors are made afterwards.
  'm_smoe_low_rank': ([0, 1, 2, 2], [0, 0, 0, 0], [[8.5, 0.5]]),
  # Experts 0 and 2 by 4:1, 3 and 1 by 1:2 in the order of expert 3.
  'easy_ep_merge': ([0, 0, 1, 1], [0, 1, 0, 1], [[7.2, 0.8], [0, 32 / 3]]),
  'mc_smoe': ([0, 1, 2, 2], [0, 0, 0, 0], [[8.5, 0.5]]),
}


def chosen(name, keep=2, **options):
  statistics = options.pop('statistics', {'text': STATISTICS})
  return methods.select(METHODS[name], keep, statistics, WEIGHTS, **options)


def experts_of(kept_NE):
  return tuple(np.flatnonzero(kept_E).tolist() for kept_E in kept_NE)


def test_every_method_is_worked_by_hand():
  assert KEPT.keys() == METHODS.keys() - {'random'}
  merges = {name for name, method in METHODS.items() if method.merge}
  assert GROUPS.keys() == merges


@pytest.mark.parametrize('name', METHODS)
def test_a_method_of_the_table_has_parts_that_exist(name):
  METHODS[name].check()
  assert METHODS[name].summary


@pytest.mark.parametrize('name', KEPT)
def test_what_a_method_keeps_of_two_layers_by_hand(name):
  assert experts_of(chosen(name).kept_NE) == KEPT[name]


@pytest.mark.parametrize('name', GROUPS)
def test_what_a_method_merges_by_hand(name):
  selection = chosen(name)
  merged = [
    methods.merged(METHODS[name], selection, WEIGHTS[n], n) for n in range(2)
  ]
  first, second, units_GF = GROUPS[name]
  assert [layer.index_E.tolist() for layer in merged] == [first, second]
  experts = merged[1].experts
  np.testing.assert_allclose(experts['w_in_EDF'][:, 0], units_GF, rtol=1e-14)
  np.testing.assert_allclose(
    experts['w_out_EFD'][:, :, 0], units_GF, rtol=1e-14
  )


def test_merged_experts_are_of_low_rank_where_the_method_says_so():
  # 0.1 of the 18 numbers of a 6 x 3 matrix, 1.8 over 6 + 3: rank 1.
  weights = experts.random('two_matrix')
  statistics = expert_statistics.random(1, 4)
  selection = methods.Selection(
    np.ones((1, 4)), np.array([[True, False, True, True]]), statistics
  )
  whole, low = (
    methods.merged(METHODS[name], selection, weights, 0)
    for name in ('m_smoe', 'm_smoe_low_rank')
  )
  np.testing.assert_array_equal(low.index_E, whole.index_E)
  for expert in range(3):
    w_FD = whole.experts['w_out_EFD'][expert]
    u, sigma, v = np.linalg.svd(w_FD)
    np.testing.assert_allclose(
      low.experts['w_out_EFD'][expert],
      sigma[0] * np.outer(u[:, 0], v[0]),
      atol=1e-12,
    )


def test_no_two_methods_make_the_same_model():
  rng = np.random.default_rng(0)
  weights = [
    experts.random('two_matrix', 8, seed) | {'w_DE': rng.normal(size=(3, 8))}
    for seed in range(2)
  ]
  # Layer 1 has two busy experts, so a budget over layers keeps fewer there.
  statistics = expert_statistics.random(2, 8)
  statistics.count_NE[1] = [900, 800, 1, 2, 3, 4, 5, 6]
  made = {}
  for name, method in METHODS.items():
    selection = methods.select(method, 4, {'text': statistics}, weights)
    arrays = [selection.kept_NE]
    if method.merge:
      layers = [
        methods.merged(method, selection, weights[n], n) for n in (0, 1)
      ]
      arrays += [layer.expanded()['w_out_EFD'] for layer in layers]
    key = b''.join(array.tobytes() for array in arrays)
    made.setdefault((key, method.shared_router, method.training), []).append(
      name
    )
  assert [names for names in made.values() if len(names) > 1] == []


def test_a_method_that_removes_experts_merges_none():
  with pytest.raises(errors.InputError, match='removes experts'):
    methods.merged(METHODS['easy_ep'], chosen('easy_ep'), WEIGHTS[0], 0)


@pytest.mark.parametrize('name', METHODS)
def test_keeping_all_keeps_all(name):
  assert chosen(name, keep=4).kept_NE.all()


def test_random_choices_depend_on_the_seed_and_on_nothing_else():
  first = chosen('random', seed=3)
  other = {'text': expert_statistics.random(2, 4)}
  again = chosen('random', statistics=other, seed=3)
  np.testing.assert_array_equal(first.kept_NE, again.kept_NE)
  choices = {
    experts_of(chosen('random', seed=s).kept_NE)[0] == [0, 1] for s in range(30)
  }
  assert choices == {True, False}


@pytest.mark.parametrize('name', sorted(KEPT.keys() | {'random'}))
def test_a_place_without_an_expert_is_not_kept(name):
  """Layer 0 has no expert 1, whose row of the router and weights are left."""
  exists_E = np.arange(4) != 1
  gram_NEE, count_NE = STATISTICS.logit_gram_NEE.copy(), {}
  gram_NEE[0] *= exists_E & exists_E[:, None]
  for field in set(SUMS) - {'logit_gram_NEE'}:
    count_NE[field] = getattr(STATISTICS, field).copy()
    count_NE[field][0, 1] = 0
  without = dataclasses.replace(STATISTICS, logit_gram_NEE=gram_NEE, **count_NE)
  for seed in range(8):
    kept_NE = chosen(name, 2, statistics={'text': without}, seed=seed).kept_NE
    assert not kept_NE[0, 1]


def test_domains_count_by_their_weights():
  """Of two domains that are sure of different experts, the heavier decides."""
  one = dataclasses.replace(STATISTICS, easy_ep_NE=np.eye(4)[[0, 0]])
  two = dataclasses.replace(STATISTICS, easy_ep_NE=100 * np.eye(4)[[3, 3]])
  domains = {'one': one, 'two': two}
  for weights, best in (
    ({'one': 0.6, 'two': 0.4}, 0),
    ({'one': 0.4, 'two': 0.6}, 3),
    ({'one': 1}, 0),
  ):
    selection = chosen('easy_ep', 1, statistics=domains, domain_weights=weights)
    assert experts_of(selection.kept_NE) == ([best], [best])
  equal = chosen('easy_ep', 2, statistics=domains).kept_NE
  assert experts_of(equal) == ([0, 3], [0, 3])


def test_a_merge_counts_domains_by_their_weights():
  """Frequencies of (2, 1) and (1, 2) activations by weights 3 and 1."""
  count_NE = np.array([[2.0, 1, 0, 0]] * 2)
  one = dataclasses.replace(STATISTICS, count_NE=count_NE)
  two = dataclasses.replace(STATISTICS, count_NE=count_NE[:, [1, 0, 2, 3]])
  selection = chosen(
    'm_smoe',
    statistics={'one': one, 'two': two, 'unused': STATISTICS},
    domain_weights={'one': 3, 'two': 1},
  )
  # 3/4 (2, 1) + 1/4 (1, 2) = (7, 5) / 4.
  np.testing.assert_allclose(
    selection.statistics.frequency, [[7 / 12, 5 / 12, 0, 0]] * 2
  )


def test_what_a_router_needs_is_kept():
  needs = RouterNeeds(4, num_groups=2, per_group=2)
  selection = chosen('easy_ep', 4, needs=needs)
  assert selection.kept_NE.all()
  with pytest.raises(errors.InputError, match=r'keep=3 is less than the 4'):
    chosen('easy_ep', 3, needs=needs)


def test_a_domain_without_tokens_is_refused():
  nothing = expert_statistics.of_events([], 4, np.zeros((0, 4)))
  nothing = dataclasses.replace(
    nothing,
    **{name: np.zeros_like(getattr(STATISTICS, name)) for name in SUMS},
  )
  with pytest.raises(errors.InputError, match="domain 'code' have no tokens"):
    chosen('easy_ep', statistics={'text': STATISTICS, 'code': nothing})


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'importance': 'easy_pe'}, "did you mean 'easy_ep'"),
    ({'choice': 'unifrom'}, "did you mean 'uniform'"),
    ({'low_rank': 0.5}, 'this method removes experts'),
    ({'shared_router': True}, 'this method removes experts'),
  ],
)
def test_a_method_of_unknown_or_unfitting_parts_is_refused(changes, message):
  method = dataclasses.replace(METHODS['easy_ep'], **changes)
  with pytest.raises(errors.InputError, match=message):
    method.check()


def test_an_unknown_method_is_refused_with_the_nearest_name():
  with pytest.raises(errors.InputError, match="did you mean 'm_smoe'"):
    methods.lookup('msmoe')
