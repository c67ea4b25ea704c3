"""Columns of experts' matrices that training sets to zero."""

import dataclasses
import types

import jax
import numpy as np
import pytest
from helpers import tiny

from moejax.compress import sparsity as plain
from moejax.config import Run
from moejax.core import config_tree, errors, trees
from moejax.model.config import ModelConfig
from moejax.moe.config import MoEConfig
from moejax.train import optimizer, sparsity, step
from moejax.train import state as states
from moejax.train.config import TrainConfig

RULE = sparsity.Columns(
  final=0.25, initial=0.9, initial_steps=2, final_steps=3, window_steps=2
)
STEPS = 12
# Layers, experts, inputs, halves if gated, outputs.
SHAPES = {'w_in_ED2F': (2, 3, 4, 2, 5), 'w_out_EFD': (2, 3, 5, 4)}


def tree_of(routed):
  return {'moe': {'ffn': {'routed': routed, 'router': {'w_DE': np.ones(3)}}}}


def drawn(rng):
  draw = lambda shape: rng.normal(size=shape).astype(np.float32)
  routed = {name: draw(shape) for name, shape in SHAPES.items()}
  return tree_of({**routed, 'b_out_ED': draw((2, 3, 4))})


def routed_of(tree):
  return tree['moe']['ffn']['routed']


def test_the_share_is_the_published_schedule():
  schedule = plain.CubicSchedule(STEPS, 2, 3, 0.9, 0.25)
  got = [float(RULE.share(np.int32(t), STEPS)) for t in range(1, STEPS + 1)]
  want = [schedule.share(t) for t in range(1, STEPS + 1)]
  np.testing.assert_allclose(got, want, rtol=1e-6)
  assert got[:2] == [pytest.approx(0.9)] * 2
  assert got[-3:] == [0.25] * 3


@pytest.mark.parametrize('share', [0.0, 0.1, 0.3, 0.5, 0.999, 1.0])
def test_the_columns_that_stay_are_those_of_the_plain_form(share):
  """Columns of unequal lengths, some of them with equal scores."""
  rng = np.random.default_rng(0)
  lengths = {'a': 4, 'b': 30}
  scores = {
    'a': rng.integers(0, 40, (2, 25)).astype(np.float32),
    'b': rng.integers(0, 40, (2, 6)).astype(np.float32),
  }
  got = jax.jit(lambda x, s: sparsity.kept(x, lengths, s))(
    scores, np.float32(share)
  )
  # A matrix [I, O] for each: all columns beside each other.
  flat = {
    name: np.broadcast_to(x.reshape(-1), (lengths[name], x.size))
    for name, x in scores.items()
  }
  want = plain.kept(flat, share)
  for name, x in got.items():
    np.testing.assert_array_equal(x.reshape(-1), want[name][0], name)


def test_steps_are_those_of_the_plain_form():
  """Windows, running means, threshold and zeros, against NumPy."""
  rng = np.random.default_rng(0)
  weights = drawn(rng)
  memory = jax.device_get(RULE.init(weights))
  schedule = plain.CubicSchedule(STEPS, 2, 3, 0.9, 0.25)
  # A matrix [I, O] for each layer, expert and half.
  moved = lambda x: np.moveaxis(x, 2, -2).reshape(-1, x.shape[2], x.shape[-1])
  slow = {
    (name, i): plain.Sensitivity(window_steps=2)
    for name in SHAPES
    for i in range(len(moved(routed_of(weights)[name])))
  }

  @jax.jit
  def prune(weights, memory, at, gradient, new):
    state = types.SimpleNamespace(
      weights=weights, sparsity=memory, step=at, skipped=0
    )
    return RULE.prune(state, STEPS, gradient, new)

  for at in range(STEPS):
    gradient, new = drawn(rng), drawn(rng)
    got, memory, metrics = jax.device_get(
      prune(weights, memory, at, gradient, new)
    )
    for name in SHAPES:
      pairs = zip(
        moved(routed_of(weights)[name]),
        moved(routed_of(gradient)[name]),
        strict=True,
      )
      for i, (s, g) in enumerate(pairs):
        slow[name, i] = slow[name, i].after(s, g)
    scores = {
      key: np.broadcast_to(x.score(), np.shape(x.window) or x.score().shape)
      for key, x in slow.items()
    }
    if at == 0:  # no window is full: all scores are 0, and all columns stay
      assert metrics['kept_share'] == 1
      tiny.assert_close(got, new)
    else:
      stays = plain.kept(scores, schedule.share(at + 1))
      for name in SHAPES:
        for i, x in enumerate(moved(routed_of(got)[name])):
          wanted = moved(routed_of(new)[name])[i] * stays[name, i]
          np.testing.assert_array_equal(x, wanted, f'{name} {i} {at}')
    others = {'b_out_ED': routed_of(new)['b_out_ED']}
    np.testing.assert_array_equal(routed_of(got)['b_out_ED'], *others.values())
    weights = got
  assert 0.25 <= metrics['kept_share'] < 0.3


def take(model, rule, steps=1):
  """Steps of training: the state and the metrics of the last one."""
  opt = optimizer.OptimizerConfig(peak_lr=0.02, eps=1e-2)
  train = TrainConfig(steps=STEPS, sparsity=rule)
  transform = optimizer.make(opt, STEPS, model.decays)
  run = step.make(model, transform, opt, train, 0)
  state = states.begin(
    model, transform, tiny.weights(model), train.skip_spikes, rule
  )
  batch = tiny.batch(([12], [5, 4], [], [], [3, 1, 6], [1], [2, 10], [7]))
  for _ in range(steps):
    state, metrics = run(state, batch)
  return jax.device_get((state, metrics))


@pytest.mark.soak
def test_a_training_step_prunes_on_any_mesh():
  rule = dataclasses.replace(RULE, initial_steps=0, final_steps=11)
  one, metrics = take(tiny.model(), rule, 3)
  assert 0.25 <= metrics['kept_share'] < 0.3
  for name, x in routed_of(one.weights).items():
    assert np.any(np.all(x == 0, axis=2)), name
  mesh = tiny.mesh(8, fsdp=2, expert=2)
  eight, _ = take(tiny.model(mesh_of=mesh), rule, 3)
  tiny.assert_close(eight.weights, one.weights, rtol=1e-4, atol=1e-5)
  tiny.assert_close(eight.sparsity, one.sparsity, rtol=1e-3, atol=1e-9)


def test_the_memory_lies_as_the_experts_do():
  model = tiny.model(mesh_of=tiny.mesh(8, fsdp=2, expert=2))
  place = trees.leaves(sparsity.shardings(RULE, model))
  assert (
    place['mean/w_in_ED2F'].spec[:2]
    == (trees.leaves(model.shardings)['moe/ffn/routed/w_in_ED2F'].spec[:2])
  )
  assert sparsity.shardings(sparsity.NONE, model) == ()


@pytest.mark.parametrize(
  ('changes', 'line'),
  [
    ({'final': '1.5'}, 'final=1.5'),
    ({'beta1': '1'}, 'beta1=1'),
    ({'fnal': '0.2'}, 'final'),
    ({'initial': '0.05'}, 'final=0.1 is more than train.sparsity.initial=0.05'),
    ({'final_steps': '990'}, 'leave nothing of train.steps=1000'),
  ],
)
def test_a_bad_value_is_one_line(changes, line):
  keys = {'initial_steps': '10', 'final_steps': '20', **changes}
  overrides = [('train.sparsity.name', 'columns')]
  overrides += [(f'train.sparsity.{key}', text) for key, text in keys.items()]
  overrides += [('model.moe.num_experts', '4')]
  with pytest.raises(errors.InputError) as error:
    config_tree.override_all(Run(), overrides).check()
  assert line in str(error.value)
  assert '\n' not in str(error.value)


def test_a_model_without_experts_has_nothing_to_prune():
  run = config_tree.override(Run(), 'train.sparsity.name', 'columns')
  with pytest.raises(errors.InputError, match='the model has none'):
    run.check()


def test_layers_of_different_numbers_of_experts_are_refused():
  moe = MoEConfig(num_experts=4, experts_by_layer=(4, 3, 4, 4))
  run = Run(
    model=ModelConfig(moe=moe),
    train=TrainConfig(sparsity=sparsity.Columns(), steps=5000),
  )
  with pytest.raises(errors.InputError, match='keep equally many experts'):
    run.check()
