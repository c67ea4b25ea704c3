"""Layers of different numbers of experts are like layers of their own experts.

A layer with six places, of which four are in use, is compared with one that has
these four experts alone. Weights of the other two are as large as the rest.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny

from moejax.compress import prune
from moejax.compress.layer_weights import LayerView, layer_view
from moejax.convert import load
from moejax.core import errors, trees
from moejax.model.config import ModelConfig
from moejax.moe import balance, contract, decide, uneven
from moejax.moe.config import MoEConfig
from moejax.moe.experts.zero_computation import ZeroComputation
from moejax.moe.feed_forward import TokenInfo
from moejax.moe.routers import ROUTERS, noisy_top_k
from moejax.moe.routers.scores import SCORES
from moejax.moe.sharded import LayerWeights

KEPT = np.array([[1, 1, 1, 1, 1, 1], [1, 0, 1, 1, 0, 1]], bool)
LAYER = 1
X_TD = np.random.default_rng(0).normal(size=(12, 8)).astype(np.float32)

ROUTINGS = {
  'top_k': ROUTERS['top_k'](),
  'top_k_after': ROUTERS['top_k'](k=2, after=True),
  **{
    f'top_k_{score}': ROUTERS['top_k'](k=3, score=score, renormalise=True)
    for score in SCORES
    if score != 'double_softmax'
  },
  'all_of_a_layer': ROUTERS['top_k'](k=4),
  'fixed_noise': ROUTERS['noisy_top_k'](k=4, noise=noisy_top_k.Fixed()),
  'tc_moe': ROUTERS['tc_moe'](num_null=2),
  'group_limited': ROUTERS['group_limited'](k=2, num_groups=2),
  'top2_sum': ROUTERS['group_limited'](
    k=3, num_groups=2, kept_groups=2, group_score='top2_sum', score='sigmoid'
  ),
  'group_balanced': ROUTERS['group_balanced'](k=2, num_groups=2),
  'hierarchical': ROUTERS['hierarchical'](),
  **{
    name: ROUTERS[name]()
    for name in (
      'dense_to_sparse',
      'gshard',
      'noisy_top_k',
      'remoe',
      'sparse_mixer',
      'stable_moe',
      'switch',
      'top_p',
    )
  },
}


def model_of(router, **moe):
  """A model of two layers with six experts each."""
  moe = {'balance': (), 'num_experts': 6, 'expert_width': 4} | moe
  return ModelConfig(
    vocab_size=16,
    num_layers=2,
    width=8,
    num_heads=1,
    head_dim=4,
    moe=MoEConfig(router=router, **moe),
  )


def layer_weights(view: LayerView) -> LayerWeights:
  """The arrays of a view as a layer takes them."""
  parts: dict[str, dict] = {}
  for path, array in view.weights.items():
    *names, last = path.split('/')
    place = parts
    for name in names:
      place = place.setdefault(name, {})
    place[last] = jnp.asarray(array)
  return LayerWeights(
    scorer=parts.get('router', {}),
    extra_scorers=parts.get('extra_scorers', {}),
    router_state=parts.get('router_state', {}),
  )


def pair(router, **moe):
  """The masked and the smaller layer: config and weights of each."""
  config = model_of(router, **moe)
  rng = np.random.default_rng(1)
  drawn: dict[str, np.ndarray] = {}

  def get(path):
    shape = shapes[path]
    if path not in drawn:
      drawn[path] = rng.normal(size=shape).astype(np.float32)
      if '/router_state/' in path:
        drawn[path] = np.abs(drawn[path])
    return drawn[path]

  masked = prune.pruned(config, KEPT, remove=False)
  removed = prune.pruned(config, np.stack([KEPT[1]] * 2))
  shapes = {
    path: leaf.shape for path, leaf in trees.leaves(load.shapes(config)).items()
  }
  views = []
  for smaller in (masked, removed):
    view = layer_view(
      smaller.config, lambda path, n, s=smaller: s.leaf(path, get)[n], LAYER
    )
    views.append((smaller.config.moe, layer_weights(view)))
  return views


def tokens_of(rows=2):
  valid_BL = np.ones((rows, len(X_TD) // rows), bool)
  valid_BL[-1, -1] = False
  index_BL = np.arange(valid_BL.size).reshape(valid_BL.shape)
  return TokenInfo(valid_BL, jnp.asarray(index_BL), jnp.asarray(index_BL))


@functools.partial(jax.jit, static_argnums=0)
def routed(config, weights, layer, key=None):
  """Weight and probability of each expert for each token, and the record."""
  decision = decide.route(
    config, weights, jnp.asarray(X_TD), tokens_of(), key=key, layer=layer
  )
  routing = decision.routing
  weight_TE = jnp.zeros((len(X_TD), config.num_choices))
  sent = routing.token_A, routing.expert_A
  weight_TE = weight_TE.at[sent].add(routing.weight_A, mode='drop')
  sent_A = jnp.ones(len(routing.expert_A), bool)
  record = decide.observe(config, weights, decision, sent_A)
  return weight_TE, routing.prob_TE, record


def used_of(config, num):
  """The places in use of the masked layer."""
  used_E = config.used_choices[LAYER]
  assert used_E.sum() == num
  return used_E


# The quick proof: no groups, groups, and another scorer of each expert.
QUICK = ('noisy_top_k', 'top2_sum', 'top_k')
EACH = pytest.mark.parametrize(
  'name',
  [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.soak)
    for name in sorted(ROUTINGS)
  ],
)


@EACH
def test_a_router_chooses_as_if_the_layer_had_its_own_experts_alone(name):
  (masked, all_weights), (smaller, weights) = pair(ROUTINGS[name])
  used_E = used_of(masked, 4)
  weight_TE, prob_TE, _ = jax.device_get(routed(masked, all_weights, LAYER))
  alone_TE, alone_prob_TE, _ = jax.device_get(routed(smaller, weights, LAYER))
  assert alone_TE.any()
  np.testing.assert_array_equal(weight_TE[:, ~used_E], 0)
  np.testing.assert_allclose(weight_TE[:, used_E], alone_TE, rtol=2e-6)
  # ReMoE's probabilities are even for a token that has no expert.
  some_T = weight_TE.any(axis=1)
  np.testing.assert_array_equal(prob_TE[some_T][:, ~used_E], 0)
  np.testing.assert_allclose(
    prob_TE[some_T][:, used_E], alone_prob_TE[some_T], rtol=2e-6
  )
  # In the other layer all experts are in use.
  weight_TE, _, _ = routed(masked, all_weights, 0)
  assert np.asarray(weight_TE)[:, ~used_E].any()


@pytest.mark.parametrize('name', ['base_layer', 'expert_threshold', 'sinkhorn'])
def test_routers_whose_tokens_compete_do_so_in_evaluation(name):
  """They can be pruned; in training a mask would change who competes."""
  router = ROUTERS[name]()
  assert not router.fits_uneven_layers
  logits_TE = np.random.default_rng(2).normal(size=(6, 6))
  in_use_NE = KEPT[LAYER:]
  used_E = in_use_NE[0]
  every = uneven.masked(router, tiny.router_input(logits_TE), in_use_NE)
  routings = [
    tiny.route(router, every),
    tiny.route(router, tiny.router_input(logits_TE[:, used_E])),
  ]
  weights = []
  for routing, num in zip(routings, (6, 4), strict=True):
    weight_TE = np.zeros((6, num + 1))
    np.add.at(weight_TE, (routing.token_A, routing.expert_A), routing.weight_A)
    weights.append(weight_TE[:, :num])
  assert weights[1].any()
  np.testing.assert_array_equal(weights[0][:, ~used_E], 0)
  np.testing.assert_allclose(weights[0][:, used_E], weights[1], rtol=2e-6)


@EACH
def test_no_noise_brings_a_place_without_an_expert_into_the_choice(name):
  (masked, all_weights), _ = pair(ROUTINGS[name])
  used_E = used_of(masked, 4)
  key = jax.random.key(3)
  weight_TE, _, record = routed(masked, all_weights, LAYER, key)
  np.testing.assert_array_equal(np.asarray(weight_TE)[:, ~used_E], 0)
  count_E = np.asarray(record.stats['count_E'].value())
  np.testing.assert_array_equal(count_E[~used_E], 0)
  assert count_E[used_E].any()


def test_a_selection_bias_does_not_make_up_for_a_missing_expert():
  parts = (balance.BALANCE['loss_free'](),)
  router = ROUTERS['top_k'](k=2, score='sigmoid')
  (masked, all_weights), (smaller, weights) = pair(router, balance=parts)
  bias_E = all_weights.router_state['loss_free']['selection_bias_E']
  used_E = used_of(masked, 4)
  # It is above the distance of any two sigmoids.
  all_weights.router_state['loss_free']['selection_bias_E'] = jnp.where(
    used_E, bias_E, 5.0
  )
  weight_TE, _, _ = jax.device_get(routed(masked, all_weights, LAYER))
  alone_TE, _, _ = jax.device_get(routed(smaller, weights, LAYER))
  np.testing.assert_allclose(weight_TE[:, used_E], alone_TE, rtol=2e-6)


# All parts that layers of different numbers may have, and both scopes of those
# that have two.
PARTS = {
  'some': {
    'importance': {},
    'loss_free': {'rule': 'proportional'},
    'sequence_level': {},
  },
  'batch': {
    'adamw_bias': {},
    'communication': {'num_groups': 2, 'over': 'batch'},
    'device_level': {'num_groups': 2},
    'entropy': {},
    'expert_level': {},
    'gshard_aux': {},
    'importance': {},
    'load': {},
    'longcat_bias': {},
    'loss_free': {},
    'sequence_level': {},
    'smebu': {},
    'switch': {},
    'token_entropy': {},
    'z_loss': {},
  },
  'sequence': {
    'communication': {'num_groups': 2},
    'device_level': {'num_groups': 2, 'over': 'sequence'},
    'entropy': {'over': 'sequence'},
    'loss_free': {'rule': 'proportional'},
    'switch': {'form': 'multi_hot'},
  },
}


@pytest.mark.parametrize(
  'which',
  [
    pytest.param(which, marks=() if which == 'some' else pytest.mark.soak)
    for which in PARTS
  ],
)
def test_balance_is_that_of_a_layer_with_its_own_experts_alone(which):
  parts = tuple(
    balance.BALANCE[name](**fields) for name, fields in PARTS[which].items()
  )
  router = ROUTERS['group_limited'](k=2, num_groups=2, kept_groups=2)
  results = []
  for config, weights in pair(router, balance=parts):
    _, _, record = routed(config, weights, LAYER)
    # The other layer has seen nothing.
    sums = jax.tree.map(lambda x: jnp.stack([0 * x, x]), record.balance)
    states = {
      name: contract.RouterState.of_arrays({
        key: jnp.stack([x, x]) for key, x in arrays.items()
      })
      for name, arrays in weights.router_state.items()
    }
    in_use_NE = config.used_choices
    _, losses = balance.total(parts, sums, in_use_NE)
    new = balance.update(parts, states, sums, in_use_NE)
    if in_use_NE is None:
      in_use_NE = np.ones((2, config.num_choices), bool)
    new = {name: state.arrays for name, state in new.items()}
    results.append({
      'loss': losses,
      'state': uneven.of_layer(new, LAYER, in_use_NE[LAYER]),
      'metrics': {
        name: record.stats[name].value() for name in ('logit', 'bias')
      },
    })
  masked, alone = map(trees.leaves, results)
  assert len(alone) > len(parts)
  for path, value in alone.items():
    np.testing.assert_allclose(
      masked[path], value, rtol=1e-5, atol=1e-7, err_msg=path
    )


def test_balance_parts_that_need_equal_layers_are_refused():
  for name, part in balance.BALANCE.items():
    if part.needs_equal_layers:
      config = MoEConfig(
        num_experts=4, experts_by_layer=(2, 4), balance=(part(),)
      )
      with pytest.raises(errors.InputError, match=f'balance.{name} wants'):
        config._check_uneven()


@pytest.mark.parametrize(
  ('model', 'moe', 'line'),
  [
    ({}, {'experts_by_layer': (2,)}, '1 numbers, but the model has 2 layers'),
    ({}, {'experts_by_layer': (2, 9)}, 'has 9 for layer 1, but router=top_k'),
    ({}, {'experts_by_layer': (1, 4)}, 'has 1 for layer 0.*want 2 to 4'),
    ({'mtp_layers': 1}, {'experts_by_layer': (2, 4)}, 'model.mtp_layers=1'),
    (
      {},
      {'experts_by_layer': (2, 4), 'router': ROUTERS['sinkhorn']()},
      'router=sinkhorn cannot leave places',
    ),
    (
      {},
      {
        'experts_by_layer': (3, 4),
        'router': ROUTERS['group_limited'](num_groups=2, kept_groups=2),
      },
      'has 3 for layer 0.*a multiple of 2 groups',
    ),
  ],
)
def test_numbers_that_no_model_can_have_are_one_line(model, moe, line):
  config = ModelConfig(
    num_layers=2, moe=MoEConfig(**{'num_experts': 4, 'balance': ()} | moe)
  )
  config = dataclasses.replace(config, **model)
  with pytest.raises(errors.InputError, match=line):
    config.check()


def test_places_in_use_are_the_first_of_each_group():
  np.testing.assert_array_equal(
    uneven.in_use((4, 2), 4, 2, 1), [[1, 1, 1, 1, 1], [1, 0, 1, 0, 1]]
  )
  config = MoEConfig(
    num_experts=3,
    experts_by_layer=(1, 3),
    zero_computation=ZeroComputation(copy=2),
  )
  np.testing.assert_array_equal(
    config.used_choices, [[1, 0, 0, 1, 1], [1, 1, 1, 1, 1]]
  )
