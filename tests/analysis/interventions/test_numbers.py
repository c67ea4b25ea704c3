"""Choices and weights of every intervention, worked by hand.

The probabilities of two tokens among four experts, of which K = 2 are chosen:

  token 0   .5  .3  .15  .05    experts 0 and 1, with weights .5 and .3
  token 1   .1  .2  .3   .4     experts 3 and 2, with weights .4 and .3
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny

from moejax.analysis import interventions
from moejax.moe.routers import ROUTERS
from moejax.moe.routers.top_k import TopK

PROB_TE = np.array([[0.5, 0.3, 0.15, 0.05], [0.1, 0.2, 0.3, 0.4]])
TOP_2, RENORMALISED = TopK(k=2), TopK(k=2, renormalise=True)


def changed(text, router, num_experts=4):
  """The router of a model under an intervention."""
  config = tiny.model_config(
    moe={'router': router, 'num_experts': num_experts, 'balance': ()}
  )
  return interventions.apply(config, text).moe.router


def choices(text, router=TOP_2, prob_TE=PROB_TE, **inputs):
  """For each token, its experts and their weights, first choice first."""
  given = tiny.router_input(np.log(prob_TE), **inputs)
  routing = jax.jit(changed(text, router, prob_TE.shape[1]))(given)
  k = routing.per_token
  expert_TK = np.asarray(routing.expert_A).reshape(k, -1).T
  weight_TK = np.asarray(routing.weight_A).reshape(k, -1).T
  return [
    [
      (int(e), pytest.approx(float(w), rel=1e-5))
      for e, w in zip(*both, strict=True)
    ]
    for both in zip(expert_TK, weight_TK, strict=True)
  ]


def biased(*bias_E):
  return {'selection_bias_E': jnp.array(bias_E, jnp.float32)}


# (text, router, choices of token 0, choices of token 1)
CASES = [
  # A share of 1/4 is one expert: the most probable is out.
  ('mask_top=1/4', TOP_2, [(1, 0.3), (2, 0.15)], [(2, 0.3), (1, 0.2)]),
  ('mask_top=0.5', TOP_2, [(2, 0.15), (3, 0.05)], [(1, 0.2), (0, 0.1)]),
  (
    'mask_top=1/4',
    RENORMALISED,
    [(1, 2 / 3), (2, 1 / 3)],
    [(2, 0.6), (1, 0.4)],
  ),
  # Half an expert is one, and less is none.
  ('mask_top=1/8', TOP_2, [(1, 0.3), (2, 0.15)], [(2, 0.3), (1, 0.2)]),
  ('mask_top=0.12', TOP_2, [(0, 0.5), (1, 0.3)], [(3, 0.4), (2, 0.3)]),
  ('mask_top=1/4', ROUTERS['switch'](), [(1, 0.3)], [(2, 0.3)]),
  (
    'mask_top=1/4',
    ROUTERS['gshard'](),
    [(1, 2 / 3), (2, 1 / 3)],
    [(2, 0.6), (1, 0.4)],
  ),
  ('active=1', TOP_2, [(0, 0.5)], [(3, 0.4)]),
  ('active=1', RENORMALISED, [(0, 1.0)], [(3, 1.0)]),
  (
    'active=3',
    TOP_2,
    [(0, 0.5), (1, 0.3), (2, 0.15)],
    [(3, 0.4), (2, 0.3), (1, 0.2)],
  ),
  (
    'active=3',
    RENORMALISED,
    [(0, 0.5 / 0.95), (1, 0.3 / 0.95), (2, 0.15 / 0.95)],
    [(3, 4 / 9), (2, 3 / 9), (1, 2 / 9)],
  ),
  ('drop_top=1', TOP_2, [(1, 0.3), (2, 0.15)], [(2, 0.3), (1, 0.2)]),
  ('drop_top=2', TOP_2, [(2, 0.15), (3, 0.05)], [(1, 0.2), (0, 0.1)]),
  (
    'drop_top=2',
    RENORMALISED,
    [(2, 0.75), (3, 0.25)],
    [(1, 2 / 3), (0, 1 / 3)],
  ),
  ('drop_top=1', ROUTERS['switch'](), [(1, 0.3)], [(2, 0.3)]),
  # Choice 3 stands in the place of choice 1, choice 4 in that of choice 2.
  ('swap_top=1', TOP_2, [(2, 0.5), (1, 0.3)], [(1, 0.4), (2, 0.3)]),
  ('swap_top=2', TOP_2, [(2, 0.5), (3, 0.3)], [(1, 0.4), (0, 0.3)]),
  (
    'swap_top=1',
    RENORMALISED,
    [(2, 0.625), (1, 0.375)],
    [(1, 4 / 7), (2, 3 / 7)],
  ),
  ('force=3', TOP_2, [(3, 0.05), (0, 0.5)], [(3, 0.4), (2, 0.3)]),
  (
    'force=3',
    RENORMALISED,
    [(3, 1 / 11), (0, 10 / 11)],
    [(3, 4 / 7), (2, 3 / 7)],
  ),
  ('forbid=0', TOP_2, [(1, 0.3), (2, 0.15)], [(3, 0.4), (2, 0.3)]),
  ('forbid=3', RENORMALISED, [(0, 0.625), (1, 0.375)], [(2, 0.6), (1, 0.4)]),
]


@pytest.mark.parametrize(
  ('text', 'router', 'first', 'second'),
  CASES,
  ids=[f'{c[0]}-{type(c[1]).__name__}-{i}' for i, c in enumerate(CASES)],
)
def test_choices_and_weights(text, router, first, second):
  assert choices(text, router) == [first, second]


def test_a_mask_ranks_by_probability_and_the_rest_is_chosen_with_the_bias():
  # Without the mask, token 0 has 3 (.05 + 1) and 0; masked is 0, not 3.
  assert choices('mask_top=1/4', **biased(0, 0, 0, 1)) == [
    [(3, 0.05), (1, 0.3)],
    [(2, 0.3), (1, 0.2)],
  ]


def test_dropped_choices_are_ranked_as_the_router_ranks_them():
  # Token 0 has 3 (.05 + 1) and 0: the first choice is 3.
  assert choices('drop_top=1', **biased(0, 0, 0, 1)) == [
    [(0, 0.5), (1, 0.3)],
    [(2, 0.3), (1, 0.2)],
  ]


def test_a_temperature_of_2_takes_the_root_of_probabilities():
  prob_TE = np.array([[0.64, 0.16, 0.16, 0.04]])
  # Roots .8 .4 .4 .2, which sum to 1.8.
  assert choices('temperature=2', prob_TE=prob_TE) == [
    [(0, 0.8 / 1.8), (1, 0.4 / 1.8)]
  ]


def test_groups_are_chosen_by_the_experts_that_are_left():
  router = ROUTERS['group_limited'](k=2, num_groups=2, kept_groups=1)
  # Groups {0, 1} and {2, 3}: without expert 0 the second has the best one.
  prob_TE = np.array([[0.4, 0.1, 0.3, 0.2]])
  assert choices('mask_top=1/4', router, prob_TE) == [[(2, 0.3), (3, 0.2)]]


@pytest.mark.parametrize(
  ('router', 'share', 'first', 'second'),
  [
    # The best group is that of the masked expert, and has one other.
    (
      ROUTERS['group_limited'](k=2, num_groups=2, kept_groups=1),
      '1/4',
      [(1, 0.3), (4, 0.0)],
      [(2, 0.3), (4, 0.0)],
    ),
    # Each group gives one expert, and one group has none left.
    (
      ROUTERS['group_balanced'](k=2, num_groups=2),
      '1/2',
      [(2, 0.15), (4, 0.0)],
      [(1, 0.2), (4, 0.0)],
    ),
  ],
  ids=['limited', 'balanced'],
)
def test_what_a_rule_of_groups_leaves_empty_goes_nowhere(
  router, share, first, second
):
  assert choices(f'mask_top={share}', router) == [first, second]


def _hash(*parts):
  """The hash of routers/hashing.py, with Python's integers."""
  state, most = 0x9E3779B9, 2**32
  for part in parts:
    state ^= part
    state = ((state ^ (state >> 16)) * 0x85EBCA6B) % most
    state = ((state ^ (state >> 13)) * 0xC2B2AE35) % most
    state ^= state >> 16
  return state


def test_a_uniform_choice_is_the_largest_hashes_with_the_router_s_weights():
  tokens = np.array([7, 9], np.int32)
  wanted = []
  for t, token in enumerate(tokens):
    hashes = [_hash(5, 2, t, int(token), e) for e in range(4)]
    order = sorted(range(4), key=lambda e: -hashes[e])[:2]
    wanted.append([(e, PROB_TE[t, e]) for e in order])
  inputs = {'token_T': jnp.asarray(tokens), 'layer': 2}
  assert choices('uniform=5', **inputs) == wanted


def test_a_uniform_choice_without_ids_is_that_of_token_0():
  inputs = tiny.router_input(np.log(np.tile(PROB_TE, (10, 1))))
  router = changed('uniform=5', TOP_2)
  expert_A = [
    np.asarray(router(dataclasses.replace(inputs, token_T=token_T)).expert_A)
    for token_T in (None, jnp.zeros(20, jnp.int32))
  ]
  np.testing.assert_array_equal(*expert_A)


def test_a_uniform_choice_has_every_pair_of_experts_equally_often():
  num = 6000
  prob_TE = np.tile([[0.97, 0.01, 0.01, 0.01]], (num, 1))
  given = tiny.router_input(np.log(prob_TE))
  routing = jax.jit(changed('uniform=0', TOP_2))(given)
  pair_T = np.sort(np.asarray(routing.expert_A).reshape(2, -1), axis=0).T
  _, counts = np.unique(pair_T, axis=0, return_counts=True)
  assert len(counts) == 6
  # 1000 each, with a standard deviation of 29.
  assert np.abs(counts - 1000).max() < 5 * 29


def test_a_uniform_choice_depends_on_the_token_and_not_on_its_neighbours():
  rng = np.random.default_rng(0)
  logits_TE = rng.normal(size=(20, 4))
  given = tiny.router_input(
    logits_TE, token_T=jnp.asarray(rng.integers(0, 50, 20), jnp.int32)
  )
  router = jax.jit(changed('uniform=0', TOP_2))
  whole = np.asarray(router(given).expert_A).reshape(2, -1)
  order = np.array([3, 17, 8])
  few = dataclasses.replace(
    given,
    logits_TE=given.logits_TE[order],
    valid_T=given.valid_T[order],
    index_T=given.index_T[order],
    token_T=given.token_T[order],
    row_length=3,
  )
  part = np.asarray(router(few).expert_A).reshape(2, -1)
  np.testing.assert_array_equal(part, whole[:, order])
