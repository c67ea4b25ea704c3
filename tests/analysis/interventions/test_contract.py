"""What holds for every intervention: a new line of the table is tested too."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny

from moejax.analysis import interventions
from moejax.analysis.interventions import INTERVENTIONS, base
from moejax.analysis.interventions.replay import Replay
from moejax.core import errors
from moejax.model import build
from moejax.moe.feed_forwards import FEED_FORWARDS
from moejax.moe.routers import ROUTERS

T, E, L = 12, 6, 4
# A value that changes the routing of some token, by intervention.
VALUES = {
  'mask_top': '1/3',
  'active': '1',
  'no_shared': '1',
  'drop_top': '1',
  'swap_top': '1',
  'temperature': '3',
  'force': '4',
  'forbid': '1',
  'uniform': '3',
}
# The others are changes of a pass, tested in tests/run/test_replaying.py.
OF_CONFIGS = [
  name for name, x in INTERVENTIONS.items() if not isinstance(x, Replay)
]
PAIRS = [
  (name, router)
  for name in OF_CONFIGS
  for router, cls in ROUTERS.items()
  if INTERVENTIONS[name].wraps and INTERVENTIONS[name].fits(cls)
]
EACH_PAIR = pytest.mark.parametrize(('name', 'router'), PAIRS)


def config_with(router, **moe):
  moe = {'num_experts': E, 'balance': (), 'router': router} | moe
  return tiny.model_config(moe=moe)


@functools.cache
def given(router, layer=0):
  """Inputs of a router; the last token is padding."""
  rng = np.random.default_rng(1)
  draw = lambda num: rng.normal(size=(T, num)).astype(np.float32)
  scheme = ROUTERS[router]()
  return tiny.router_input(
    draw(scheme.num_logits(E)),
    valid_T=np.arange(T) < T - 1,
    row_length=L,
    extra_scores={
      key: jnp.asarray(draw(num))
      for key, (_, num) in scheme.extra_scorers(E).items()
    },
    token_T=jnp.asarray(rng.integers(0, 40, T), jnp.int32),
    steps=jnp.float32(3),
    layer=jnp.int32(layer),
  )


def value_for(name, router):
  """One that the router can take: of one expert per token, active is 2."""
  k = ROUTERS[router]().experts_per_token
  return '2' if name == 'active' and k == 1 else VALUES[name]


def gates(router, layer=0, name=None):
  """The weight of each expert for each token, [T, E]; padding has none."""
  routing = router(given(name, layer))
  padding = np.asarray(routing.expert_A)[np.asarray(routing.token_A) == T - 1]
  assert (padding == E).all()
  gate_TE = np.zeros((T, E + 1), np.float32)
  for token, expert, weight in zip(
    *map(np.asarray, (routing.token_A, routing.expert_A, routing.weight_A)),
    strict=True,
  ):
    gate_TE[token, expert] += weight
  assert not gate_TE[:, E].any()
  return gate_TE[:, :E]


def test_every_intervention_has_a_value_here():
  assert set(VALUES) == set(OF_CONFIGS)


@EACH_PAIR
def test_only_the_layers_that_are_named_change(name, router):
  config = config_with(ROUTERS[router]())
  text = f'{name}={value_for(name, router)}'
  one = interventions.apply(config, text, layers=[2]).moe.router
  everywhere = interventions.apply(config, text).moe.router
  before = gates(ROUTERS[router](), name=router)
  after = gates(everywhere, 1, name=router)
  # Layers 1 and 2 of the model are 0 and 1 of those with experts.
  np.testing.assert_array_equal(gates(one, 0, name=router), before)
  np.testing.assert_array_equal(gates(one, 1, name=router), after)
  assert (after != before).any(), 'nothing changes'


# The values that the command takes, for a router with 7 of 63 experts: those of
# the papers' figures, which are fewer if K is small.
USUAL = {
  'mask_top': ('0', '1/16', '1/8', '3/16', '1/4'),
  'active': ('4', '5', '6', '7'),
  'no_shared': ('0', '1'),
  'drop_top': ('0', '1', '2'),
  'swap_top': ('0', '1', '2'),
  'temperature': ('0.1', '1', '10'),
  'force': (),
  'forbid': (),
  'uniform': ('0', '1', '2'),
  'replay': (),
  'replay_gates': (),
}


@pytest.mark.parametrize('name', INTERVENTIONS)
def test_the_usual_values_fit_the_model_and_have_the_neutral_one(name):
  entry = INTERVENTIONS[name]
  router = ROUTERS['top_k'](k=7)
  config = config_with(router, num_experts=63, num_shared=1)
  assert entry.usual(config) == USUAL[name]
  for value in USUAL[name]:
    interventions.apply(config, f'{name}={value}')
  neutral = entry.neutral(config)
  assert neutral is None or neutral in USUAL[name]


@EACH_PAIR
def test_the_neutral_value_changes_nothing_to_the_bit(name, router):
  config = config_with(ROUTERS[router]())
  value = INTERVENTIONS[name].neutral(config)
  if value is None:
    assert name in {'no_shared', 'force', 'forbid', 'uniform'}
    return
  changed = interventions.apply(config, f'{name}={value}').moe.router
  np.testing.assert_array_equal(
    gates(changed, name=router), gates(ROUTERS[router](), name=router)
  )


@pytest.mark.parametrize('router', ['top_k', 'noisy_top_k', 'sparse_mixer'])
@pytest.mark.parametrize('name', OF_CONFIGS)
def test_the_parameters_stay_the_same(name, router):
  config = config_with(ROUTERS[router](), num_shared=1)
  if not INTERVENTIONS[name].fits(ROUTERS[router]):
    return
  changed = interventions.apply(config, f'{name}={VALUES[name]}')
  before, after = (build.build(c, tiny.mesh()) for c in (config, changed))
  assert before.shapes == after.shapes
  assert before.axes == after.axes


def hidden(config, weights, mesh):
  model = build.build(config, mesh)
  batch = tiny.batch([[12], [5, 7], [6], [3, 4]])
  run = jax.jit(lambda w, b: model.bind(w)(*b).x_BLD)
  arrays = batch.token_BL, batch.segment_BL, batch.position_BL
  return np.asarray(run(jax.device_put(weights, model.shardings), arrays))


# One draws by the index of a token; the others are computed like it, or as a
# layer without an intervention, and each takes seconds to compile.
ON_TWO_DEVICES = [
  pytest.param(name, marks=() if name == 'uniform' else pytest.mark.soak)
  for name in OF_CONFIGS
]


@pytest.mark.parametrize('name', ON_TWO_DEVICES)
def test_a_model_computes_the_same_on_two_devices(name):
  config = config_with(ROUTERS['top_k'](), num_shared=1)
  changed = interventions.apply(config, f'{name}={VALUES[name]}', layers=[1])
  weights = tiny.draw(build.build(config, tiny.mesh()).shapes)
  alone = hidden(changed, weights, tiny.mesh())
  split = hidden(changed, weights, tiny.mesh(2, data=1, expert=2))
  np.testing.assert_allclose(split, alone, rtol=2e-4, atol=2e-4)
  assert np.abs(hidden(config, weights, tiny.mesh()) - alone).max() > 1e-3


@pytest.mark.soak
def test_without_shared_experts_a_model_is_that_of_a_config_without_them():
  config = config_with(ROUTERS['top_k'](k=2), num_shared=2)
  weights = tiny.draw(build.build(config, tiny.mesh()).shapes)
  wanted = config_with(ROUTERS['top_k'](k=3), num_shared=0)
  own = hidden(interventions.apply(config, 'no_shared=1'), weights, tiny.mesh())
  del weights['moe']['ffn']['shared']
  np.testing.assert_allclose(
    own, hidden(wanted, weights, tiny.mesh()), rtol=1e-5, atol=1e-5
  )


def test_shared_experts_are_left_out_in_the_layers_that_are_named():
  config = config_with(ROUTERS['top_k'](), num_shared=1)
  out_BLD = jnp.full((1, 2, 3), 5.0)
  left = {
    layers: [
      float(changed.moe.shared.in_layer(out_BLD, place).sum())
      for place in (0, 1)
    ]
    for layers in (None, (1,), (2,), (1, 2))
    for changed in [interventions.apply(config, 'no_shared=0', layers)]
  }
  # Layers 1 and 2 of the model are 0 and 1 of those with experts.
  assert left == {None: [0, 0], (1,): [0, 30], (2,): [30, 0], (1, 2): [0, 0]}


@pytest.mark.parametrize('router', sorted(ROUTERS))
@pytest.mark.parametrize('name', OF_CONFIGS)
def test_a_router_that_cannot_be_changed_is_one_line(name, router):
  entry, cls = INTERVENTIONS[name], ROUTERS[router]
  if entry.fits(cls):
    return
  with pytest.raises(errors.InputError) as caught:
    interventions.apply(config_with(cls()), f'{name}={VALUES[name]}')
  message = str(caught.value)
  assert message.startswith(
    f'{name}={VALUES[name]}: the router {router} cannot'
  )
  assert 'top_k' in message.partition('these can: ')[2].split(', ')
  assert '\n' not in message


@pytest.mark.parametrize(
  ('text', 'words'),
  [
    ('mask_top=1.5', 'the share must be from 0 to 1'),
    ('mask_top=-1/8', 'the share must be from 0 to 1'),
    ('mask_top=nan', "'nan' is not a share such as 1/16"),
    ('mask_top=1/0', "'1/0' is not a share"),
    ('mask_top=5/6', 'masks 5 of 6 experts, but a token needs 2 of the rest'),
    (
      'mask_top',
      'mask_top needs a value: mask_top=VALUE, share of the experts',
    ),
    (
      'mask_tpo=1/8',
      "unknown intervention 'mask_tpo'; did you mean 'mask_top'?",
    ),
    ('active=0', 'the number of experts per token must be from 1 to 6'),
    ('active=7', 'the number of experts per token must be from 1 to 6'),
    ('active=1.5', "'1.5' is not the number of experts per token"),
    ('drop_top=3', 'the number of choices to replace must be from 0 to 2'),
    ('swap_top=-1', 'the number of choices to replace must be from 0 to 2'),
    ('temperature=0', 'the temperature must be from 1e-6 to 1e6'),
    ('temperature=1e-7', 'the temperature must be from 1e-6 to 1e6'),
    ('temperature=1e7', 'the temperature must be from 1e-6 to 1e6'),
    ('temperature=hot', "'hot' is not a temperature such as 0.1"),
    ('force=6', 'the number of the expert must be from 0 to 5'),
    ('forbid=-1', 'the number of the expert must be from 0 to 5'),
    ('uniform=-1', 'the seed must be from 0 to'),
    ('no_shared=1', 'the model has no shared experts (model.moe.num_shared=0)'),
    ('replay=10', 'evaluated by moejax intervene alone'),
  ],
)
def test_a_bad_value_is_one_line(text, words):
  config = config_with(ROUTERS['top_k'](k=2), num_shared=0)
  with pytest.raises(errors.InputError) as caught:
    interventions.apply(config, text)
  assert words in str(caught.value)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
  ('text', 'moe', 'words'),
  [
    ('drop_top=2', {'num_experts': 3}, 'choices 3 to 4 of each token, but'),
    ('forbid=0', {'num_experts': 2}, 'forbids one of 2 experts, but a token'),
    ('no_shared=2', {'num_experts': 3}, '4 experts per token, but there are 3'),
    (
      'active=2',
      {'router': ROUTERS['top_k'](k=1, scales_input=True)},
      'scales_input=True with router.k=2',
    ),
    (
      'active=1',
      {'router': ROUTERS['group_balanced'](k=2, num_groups=2)},
      'does not divide router.k=1',
    ),
    (
      'active=3',
      {'router': ROUTERS['group_balanced'](k=2, num_groups=2)},
      'does not divide router.k=3',
    ),
    (
      'no_shared=1',
      {'router': ROUTERS['hash']()},
      'the router hash cannot be changed in this way; these can: ',
    ),
  ],
)
def test_a_value_that_does_not_fit_the_model_is_one_line(text, moe, words):
  config = config_with(ROUTERS['top_k'](k=2), num_shared=1)
  moe = dataclasses.replace(config.moe, **moe)
  with pytest.raises(errors.InputError) as caught:
    interventions.apply(dataclasses.replace(config, moe=moe), text)
  assert words in str(caught.value)


def test_routers_that_rank_experts_can_be_changed_with_few_exceptions():
  ranking = {
    name for name, cls in ROUTERS.items() if issubclass(cls, base.RANKED)
  }
  refused = {
    (name, router)
    for name in OF_CONFIGS
    for router in ranking
    if INTERVENTIONS[name].wraps
    and not INTERVENTIONS[name].fits(ROUTERS[router])
  }
  one_k = ranking - {
    'top_k', 'group_limited', 'group_balanced', 'noisy_top_k', 'sinkhorn',
    'sparse_mixer',
  }  # fmt: skip
  assert refused == {
    # The groups decide which expert stands in for another.
    ('swap_top', 'group_limited'),
    ('swap_top', 'group_balanced'),
    # The gate is a softmax over the logits near the largest.
    ('force', 'sparse_mixer'),
    ('uniform', 'sparse_mixer'),
    # The number of experts belongs to the router.
    *(('active', router) for router in one_k),
  }
  assert {'switch', 'gshard', 'base_layer'} <= one_k
  # A temperature needs no ranking.
  assert INTERVENTIONS['temperature'].fits(ROUTERS['top_p'])
  assert not INTERVENTIONS['mask_top'].fits(ROUTERS['top_p'])


@pytest.mark.parametrize(
  ('text', 'number'), [('active=3', 3), ('drop_top=1', 2)]
)
def test_a_changed_router_knows_the_number_of_its_experts(text, number):
  config = config_with(ROUTERS['top_k'](k=2))
  changed = interventions.apply(config, text)
  assert changed.moe.router.experts_per_token == number
  assert changed.moe.experts_per_token == number


def test_shared_experts_can_be_left_out_beside_any_router():
  config = config_with(ROUTERS['hash'](), num_shared=1)
  assert interventions.apply(config, 'no_shared=0').moe.router == (
    ROUTERS['hash']()
  )


@pytest.mark.parametrize('kind', ['peer', 'soft_moe'])
def test_a_layer_without_a_router_is_one_line(kind):
  config = tiny.model_config(feed_forward=FEED_FORWARDS[kind]())
  with pytest.raises(errors.InputError, match=f'feed_forward={kind} has no'):
    interventions.apply(config, 'mask_top=0')


def test_a_dense_model_is_one_line():
  config = tiny.model_config(moe={'num_experts': 0})
  with pytest.raises(errors.InputError, match='no layer with routed experts'):
    interventions.apply(config, 'mask_top=0')


def test_a_layer_without_experts_is_one_line():
  config = config_with(ROUTERS['top_k']())
  assert base.layers_with_experts(config) == (1, 2)
  for layer in (0, 3):
    with pytest.raises(
      errors.InputError, match=f'--layers={layer}: the layers with experts are'
    ):
      interventions.apply(config, 'mask_top=0', layers=[1, layer])


def test_layers_are_counted_as_in_the_model():
  config = config_with(ROUTERS['top_k']())
  config = dataclasses.replace(config, num_layers=5, first_dense=1, moe_every=2)
  assert base.layers_with_experts(config) == (2, 4)
  assert base.places(config, [4]) == (1,)
