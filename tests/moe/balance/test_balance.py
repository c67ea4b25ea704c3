"""What holds for every balance part, whatever its formula."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny
from helpers.balance import PARTS, observe, problem, rich
from jax.sharding import PartitionSpec

from moejax.core import errors
from moejax.moe import balance, contract
from moejax.moe.balance import BALANCE, base
from moejax.moe.balance.gshard import GShardAux
from moejax.moe.balance.load import DeviceLevel, ExpertLevel
from moejax.moe.config import MoEConfig
from moejax.parallel import mesh as meshes

WITH_LOSS = sorted(
  name for name, cls in BALANCE.items() if cls.loss is not base.Balance.loss
)
EACH = pytest.mark.parametrize('name', sorted(BALANCE))
EACH_LOSS = pytest.mark.parametrize('name', WITH_LOSS)

# Two tokens of four experts, K = 2; a third is padding and counts nowhere.
PROB_TE = np.array([
  [0.5, 0.3, 0.1, 0.1],
  [0.2, 0.1, 0.6, 0.1],
  [0.0, 0.0, 0.0, 1.0],
])
EXPERT_TK = np.array([[0, 1], [2, 0], [3, 2]])
VALID_T = np.array([True, True, False])

# Fields of RouterInput that are split over devices.
SEEN = ('logits_TE', 'valid_T', 'index_T')


def test_every_part_is_tried():
  assert PARTS.keys() == BALANCE.keys()


@functools.cache
def observed(rows):
  """The sums of all parts, by name: one program for all is quick to compile."""
  return jax.device_get(observe_all(*rich(rows)))


@jax.jit
def observe_all(given, routing):
  return {name: observe(part, given, routing) for name, part in PARTS.items()}


@jax.jit
def gradients(logits_TE):
  """Of each loss, by name."""

  def losses(logits_TE):
    given, routing = rich(logits_TE=logits_TE)
    return {
      name: PARTS[name].loss(observe(PARTS[name], given, routing))
      for name in WITH_LOSS
    }

  return jax.jacrev(losses)(logits_TE)


@EACH
def test_sums_of_the_parts_are_the_sums_of_the_whole(name):
  """Shards and micro-batches add up; losses of the parts would not."""
  part = PARTS[name]
  whole = observed((0, 1, 2, 3))[name]
  halves = [observed(rows)[name] for rows in ((0, 2), (1, 3))]
  added = jax.tree.map(np.add, *halves)
  tiny.assert_close(added, whole, rtol=1e-5)
  if name in WITH_LOSS:
    np.testing.assert_allclose(part.loss(added), part.loss(whole), rtol=1e-5)


def test_two_devices_see_what_one_does():
  """In `shard_map`, with the sums of shards added by psum: every part."""
  given, routing = rich()
  seen = {name: getattr(given, name) for name in SEEN}
  chosen = {
    'expert_TK': routing.expert_A.reshape(2, -1).T,
    'weight_TK': routing.weight_A.reshape(2, -1).T,
    'prob_TE': routing.prob_TE,
    'extra': routing.extra,
  }

  whole = {'responses_EE': given.responses_EE}

  def of_shard(whole, seen, chosen):
    given = contract.RouterInput(**seen, **whole, key=None, row_length=6)
    routing = contract.token_choice(given, **chosen)
    return jax.lax.psum(observe_all(given, routing), 'data')

  rows = PartitionSpec('data')
  sharded = jax.shard_map(
    of_shard,
    mesh=meshes.make(meshes.MeshConfig(), jax.devices()[:2]),
    in_specs=(PartitionSpec(), rows, rows),
    out_specs=PartitionSpec(),
  )
  sums = jax.jit(sharded)(whole, seen, chosen)
  tiny.assert_close(sums, observed((0, 1, 2, 3)), rtol=1e-5)


@EACH
def test_sums_are_float32(name):
  leaves = jax.tree.leaves(observed((0, 1, 2, 3))[name])
  assert leaves
  assert {leaf.dtype for leaf in leaves} == {np.dtype('float32')}


@functools.cache
def of_padding():
  """All parts' sums of a batch of padding; states before it and after."""
  given, routing = rich()
  given = dataclasses.replace(given, valid_T=jnp.zeros(24, bool))
  expert_A = jnp.full_like(routing.expert_A, 5)
  extra = routing.extra | {'unbiased_TK': jnp.full((24, 2), 5.0)}
  routing = dataclasses.replace(
    routing,
    expert_A=expert_A,
    weight_A=jnp.zeros(expert_A.shape),
    extra=extra,
  )
  layers = lambda tree: jax.tree.map(lambda x: np.asarray(x)[None], tree)
  sums = jax.device_get(observe_all(given, routing))
  starts = {name: part.initial_state(5) for name, part in PARTS.items()}
  before = {
    name: layers(start) for name, start in starts.items() if start is not None
  }

  @jax.jit
  def update(before, sums):
    return {
      name: PARTS[name].update(before[name], sums[name]) for name in before
    }

  after = update(before, {name: layers(sums[name]) for name in before})
  return sums, before, jax.device_get(after)


@EACH
def test_padding_alone_changes_nothing(name):
  sums, before, after = of_padding()
  assert PARTS[name].loss(sums[name]) == 0
  if name in before:
    unless_steps = lambda state: {**state.arrays, 'steps': None}
    tiny.assert_close(
      unless_steps(after[name]), unless_steps(before[name]), atol=0
    )


@EACH_LOSS
def test_the_gradient_is_finite_and_not_of_padding(name):
  """Also where softmax is 0 or 1 to the last digit."""
  given, _ = rich()
  huge_TE = jnp.sign(given.logits_TE) * 1e4
  for logits_TE in (given.logits_TE, huge_TE, jnp.zeros((24, 5))):
    gradient = gradients(logits_TE)[name]
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(gradient[~given.valid_T], 0)


@pytest.mark.parametrize(
  'name',
  sorted(
    set(WITH_LOSS)
    # More than one coefficient, or one that is in the sums.
    - {'adaptive_l1', 'dselect_entropy', 'stable_moe', 'tc_moe'}
    - {'communication', 'first_choice', 'groups', 'sequence_level'}
  ),
)
def test_the_first_field_is_the_coefficient(name):
  part = PARTS[name]
  key = dataclasses.fields(part)[0].name
  sums = observed((0, 1, 2, 3))[name]
  of = lambda x: float(dataclasses.replace(part, **{key: x}).loss(sums))
  one = of(1.0)
  assert of(0.5) == pytest.approx(one / 2, rel=1e-6)
  assert abs(one) > 1e-4


@pytest.mark.parametrize(
  ('name', 'want_E'),
  [
    # f = 4 / (2 * 2) * (2, 1, 1, 0), over 2 tokens
    ('expert_level', 0.01 * np.array([2.0, 1, 1, 0]) / 2),
    ('sequence_level', 1e-4 * np.array([2.0, 1, 1, 0]) / 2),
    ('device_level', 0.05 * np.ones(4) / 2),
    # One device: D / (M T) = 1 / 2 for each of 2 tokens that are sent there.
    ('communication', 0.02 * np.ones(4) / 2),
    # First choices are (1, 0, 1, 0); times N = 4 over 2 tokens
    ('gshard_aux', 0.01 * 4 * np.array([0.5, 0, 0.5, 0]) / 2),
    ('switch', 0.01 * 4 * np.array([0.5, 0, 0.5, 0]) / 2),
    ('weighted', 0.01 * np.array([1.0, 0.5, 0.5, 0]) / 2),
    ('groups', 1e-3 * np.ones(4) / 2),
  ],
)
def test_the_gradient_goes_through_the_probabilities_alone(name, want_E):
  """Counts are constants."""
  part = BALANCE[name]()

  def of(prob_TE):
    given, routing = problem(PROB_TE[:2], EXPERT_TK[:2])
    routing = dataclasses.replace(routing, prob_TE=prob_TE)
    return part.loss(observe(part, given, routing))

  gradient = jax.jit(jax.grad(of))(jnp.asarray(PROB_TE[:2], jnp.float32))
  np.testing.assert_allclose(gradient, [want_E] * 2, rtol=1e-6)


def observe_by_name(name, given, routing):
  """As a layer does it, which says in errors what a part is called."""
  parts = (PARTS[name],)
  balance.observe(parts, given, routing, balance.initial_states(parts, 5))


@pytest.mark.parametrize(
  ('name', 'extra'),
  [
    ('adaptive_l1', 'relu_TE'),
    ('dselect_entropy', 'selector_entropy_T'),
    ('stable_moe', 'stable_TE'),
    ('tc_moe', 'folded_TE'),
    ('two_level', 'outer_TG'),
  ],
)
def test_a_router_that_does_not_report_is_named(name, extra):
  given, routing = rich()
  routing.extra.pop(extra)
  with pytest.raises(
    errors.InputError,
    match=rf'^model\.moe\.balance\.{name} needs {extra} from the router, '
    rf'which reports .* or model\.moe\.balance\.{name}=off$',
  ):
    observe_by_name(name, given, routing)


@pytest.mark.parametrize('name', ['first_choice', 'gshard_aux', 'switch'])
def test_first_choices_are_needed(name):
  given, routing = rich()
  routing = dataclasses.replace(routing, per_token=None)
  with pytest.raises(
    errors.InputError,
    match=rf'^model\.moe\.balance\.{name} counts first choices, which only ',
  ):
    observe_by_name(name, given, routing)


@pytest.mark.parametrize(
  'name',
  sorted(
    name
    for name in WITH_LOSS
    if name not in {'adaptive_l1', 'first_choice', 'gshard_aux', 'switch'}
  ),
)
def test_the_order_of_assignments_does_not_matter(name):
  """A list that is not token choice is counted by other code."""
  given, routing = rich()
  turn = np.random.default_rng(0).permutation(len(routing.token_A))
  turned = dataclasses.replace(
    routing,
    token_A=routing.token_A[turn],
    expert_A=routing.expert_A[turn],
    weight_A=routing.weight_A[turn],
    per_token=None,
  )
  part = PARTS[name]
  if 'over' in [field.name for field in dataclasses.fields(part)]:
    part = dataclasses.replace(part, over='sequence')
  want, got = observe(part, given, routing), observe(part, given, turned)
  tiny.assert_close(got, want)


@pytest.mark.parametrize('num_experts', [2, 3, 4, 8])
@EACH
def test_shrunk_parts_fit(name, num_experts):
  PARTS[name].shrunk(num_experts).check(num_experts)


@pytest.mark.parametrize(
  ('name', 'fields', 'match'),
  [
    ('device_level', {'num_groups': 3}, 'num_groups=3 does not divide the 8'),
    ('communication', {'num_groups': 5}, 'num_groups=5 does not divide the 8'),
    (
      'communication',
      {'num_groups': 2, 'groups_per_token': 3},
      'groups_per_token=3 must be 1 to num_groups=2',
    ),
    ('weighted', {'num_zero': 8}, 'num_zero=8 must be 0 to 7'),
    (
      'groups',
      {'num_zero': 2, 'num_groups': 4},
      'num_groups=4 does not divide the 6',
    ),
    ('longcat_bias', {'num_zero': 9}, 'num_zero=9 must be 0 to 7'),
    ('adaptive_l1', {'k': 9.0}, 'k=9.0 experts per token, but there are 8'),
  ],
)
def test_bad_fields_are_named(name, fields, match):
  config = MoEConfig(num_experts=8, balance=(BALANCE[name](**fields),))
  with pytest.raises(errors.InputError, match=rf'^balance\.{name}\.{match}'):
    config.check()


def in_turn(num_experts, k):
  """Token t chooses experts t, t + 1, ... t + k - 1: all are chosen alike."""
  token_T1 = np.arange(num_experts)[:, None]
  return (token_T1 + np.arange(k)) % num_experts


def layers(parts):
  """The sums of two layers, stacked: the worked example, and a balanced one."""
  one = balance.observe(parts, *problem(PROB_TE, EXPERT_TK, VALID_T), {})
  two = balance.observe(
    parts, *problem(np.full((4, 4), 0.25), in_turn(4, 2)), {}
  )
  return jax.tree.map(lambda a, b: jnp.stack([a, b]), one, two)


def test_total_is_the_sum_over_layers_and_reports_means():
  """The example is 1.25 by expert, 1.05 by two devices."""
  parts = (ExpertLevel(0.1), DeviceLevel(1.0, 2), BALANCE['loss_free']())
  total, by_name = balance.total(parts, layers(parts))
  assert float(total) == pytest.approx(0.1 * (1.25 + 1) + (1.05 + 1), rel=1e-6)
  assert {k: float(v) for k, v in by_name.items()} == pytest.approx({
    'expert_level': 0.1 * 2.25 / 2,
    'device_level': 2.05 / 2,
  })


def test_no_losses_are_zero():
  total, by_name = balance.total((), {})
  assert (float(total), by_name) == (0.0, {})


@EACH
def test_a_missing_loss_is_an_error(name):
  parts = (GShardAux() if name != 'gshard_aux' else ExpertLevel(),)
  with pytest.raises(
    KeyError, match=f"no layer reported balance loss '{name}'"
  ):
    balance.total((*parts, BALANCE[name]()), layers(parts))


def test_states_are_by_part_and_only_of_those_that_have_one():
  names = ['loss_free', 'expert_level', 'adaptive_l1', 'quantile']
  parts = tuple(PARTS[name] for name in names)
  states = balance.initial_states(parts, 5)
  assert states.keys() == {'loss_free', 'adaptive_l1', 'quantile'}
  assert {x.dtype for x in jax.tree.leaves(states)} == {np.dtype('float32')}
  stack = lambda tree: jax.tree.map(lambda x: jnp.stack([x, x]), tree)
  observe_parts = jax.jit(functools.partial(balance.observe, parts))
  sums = stack(observe_parts(*rich(), states))
  update_parts = jax.jit(functools.partial(balance.update, parts))
  after = update_parts(stack(states), sums)
  shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
  assert shapes(after) == shapes(stack(states))
  for name in states:
    changed = [
      np.any(np.asarray(a) != b)
      for a, b in zip(
        jax.tree.leaves(after[name]),
        jax.tree.leaves(stack(states)[name]),
        strict=True,
      )
    ]
    assert all(changed), name
