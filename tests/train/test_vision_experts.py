"""Experts of the front end are trained: losses, states, names of metrics."""

import dataclasses
import math

import jax
import numpy as np
import pytest
from helpers import seeing, tiny

from moejax.core import errors, trees
from moejax.moe.balance import BALANCE, bias
from moejax.moe.routers import ROUTERS
from moejax.train import lora, optimizer, schedule, step
from moejax.train import loss as losses
from moejax.train import state as states
from moejax.train.config import TrainConfig
from moejax.vision import projector
from moejax.vision.feed_forward import Mixture

TOP_2 = ROUTERS['top_k'](k=2, renormalise=True)
# Large, so that they matter as much as the text; and one bias rule.
BALANCED = (
  BALANCE['first_choice'](alpha=2.0),
  BALANCE['z_loss'](coefficient=0.5),
  bias.LossFree(rate=0.1),
)
EXPERTS = Mixture(num_experts=3, router=TOP_2, balance=BALANCED)
CONNECTOR = projector.Experts(num_experts=4, router=TOP_2, balance=BALANCED)
STATE = 'router_state/loss_free/selection_bias_E'
OPT = optimizer.OptimizerConfig(
  peak_lr=0.02,
  eps=1e-2,
  weight_decay=0.3,
  schedule=schedule.ConstantSchedule(warmup=0),
)


def model_of(experts=EXPERTS, connector=CONNECTOR, layers=(-2,)):
  """Three layers of which the second is read; a dense decoder."""
  encoder = dataclasses.replace(
    seeing.SIGHT.encoder, num_layers=3, feed_forward=experts
  )
  vision = dataclasses.replace(
    seeing.SIGHT, encoder=encoder, projector=connector, layers=layers
  )
  return seeing.model(vision=vision, moe={'num_experts': 0})


def stepped(model, micro_batches=1, weights=None):
  """State and metrics after a step."""
  transform = optimizer.make(OPT, 10, model.decays)
  weights = tiny.weights(model) if weights is None else weights
  state = states.begin(model, transform, weights)
  train = TrainConfig(steps=10, micro_batches=micro_batches)
  run = step.make(model, transform, OPT, train, seed=0)
  return jax.device_get(run(state, seeing.batch()))


@pytest.fixture(scope='module')
def whole():
  model = model_of()
  return model, *stepped(model)


def flat(state):
  return trees.leaves(state.weights)


@pytest.mark.parametrize(
  'over_layers', ['mean', pytest.param('sum', marks=pytest.mark.soak)]
)
def test_the_loss_has_the_balance_losses_of_all_vision_layers(over_layers):
  """Routers of zeros: all first choices are expert 0, all probabilities 1/E.

  So E sum f P is 1 and the square of the logsumexp (ln E)^2, in both layers
  that are computed, and in the projector.
  """
  parts = (BALANCE['first_choice'](), BALANCE['z_loss']())
  change = {'balance': parts, 'over_layers': over_layers}
  model = model_of(
    *(dataclasses.replace(x, **change) for x in (EXPERTS, CONNECTOR))
  )
  zero = lambda path, w: np.zeros(w.shape) if '/router/' in path else w
  weights = trees.map_paths(zero, tiny.weights(model))
  batch = seeing.batch()
  run = jax.jit(
    lambda w: losses.objective(
      model,
      TrainConfig(),
      w,
      batch,
      np.arange(4),
      None,
      losses.GlobalBatch(batch.weight_BL.sum()),
    )
  )
  loss, report = run(weights)
  layers = 1 if over_layers == 'mean' else 2
  wanted = layers * (0.01 + 0.001 * math.log(3) ** 2)
  wanted += 0.01 + 0.001 * math.log(4) ** 2
  added = loss - report['values']['loss'].value()
  np.testing.assert_allclose(added, wanted, 1e-3)


@pytest.mark.soak
def test_metrics_name_the_part_that_has_the_experts(whole):
  _, _, metrics = whole
  named = {name for name in metrics if name.startswith('vision/')}
  assert named == {
    f'vision/{part}/balance/{name}'
    for part in ('encoder', 'projector')
    for name in ('first_choice', 'z_loss')
  }
  counts = {k: v['count_E'].shape for k, v in metrics['vision_stats'].items()}
  assert counts == {'encoder': (2, 3), 'projector': (1, 4)}
  # Three images of four patches, two experts each.
  assert metrics['vision_stats']['projector']['count_E'].sum() == 24


@pytest.mark.soak
def test_micro_batches_change_nothing(whole):
  """Balance losses are those of the global batch, however it is cut."""
  model, state, metrics = whole
  other, same = stepped(model, micro_batches=2)
  tiny.assert_close(other.weights, state.weights, 1e-4, 1e-5)
  tiny.assert_close(same['vision_stats'], metrics['vision_stats'], 1e-4, 1e-5)
  for name in metrics:
    if name.startswith('vision/'):
      np.testing.assert_allclose(same[name], metrics[name], 1e-5)


@pytest.mark.soak
def test_biases_follow_the_load_of_layers_that_are_computed(whole):
  """Each bias moves by the rate towards the mean load; the third layer's,
  which nothing reads, stays zero."""
  _, state, metrics = whole
  for part, below in (
    ('encoder', 'vision/encoder/layers/ffn'),
    ('projector', 'vision/projector/ffn'),
  ):
    found = np.atleast_2d(flat(state)[f'{below}/{STATE}'])
    count_NE = metrics['vision_stats'][part]['count_E']
    over_NE = count_NE - count_NE.mean(axis=1, keepdims=True)
    wanted = np.zeros(found.shape, np.float32)
    wanted[: len(count_NE)] = -0.1 * np.sign(over_NE)
    assert np.abs(wanted).max() > 0
    np.testing.assert_allclose(found, wanted, 1e-6)


@pytest.mark.soak
def test_every_part_of_an_expert_is_trained(whole):
  """The third layer has no gradient: decay alone moves it."""
  model, state, _ = whole
  before, after = flat_of(model), flat(state)
  for path in before:
    if path.startswith('vision/') and '/ffn/ro' in path and STATE not in path:
      moved = before[path] != after[path]
      if '/layers/' in path:
        decayed = before[path] * np.float32(1 - 0.02 * 0.3 * model.decays[path])
        np.testing.assert_allclose(after[path][2], decayed[2], 1e-5)
        moved = moved[:2]
      assert moved.mean() > 0.5, path


def flat_of(model):
  return jax.device_get(trees.leaves(tiny.weights(model)))


def test_a_bias_that_nothing_follows_is_refused():
  experts = dataclasses.replace(EXPERTS, router=ROUTERS['expert_choice']())
  vision = model_of().config.vision
  encoder = dataclasses.replace(vision.encoder, feed_forward=experts)
  vision = dataclasses.replace(vision, encoder=encoder)
  wanted = (
    r'^model\.vision\.encoder\.feed_forward\.balance\.loss_free moves a .* set '
    r'model\.vision\.encoder\.feed_forward\.balance\.loss_free=off'
  )
  with pytest.raises(errors.InputError, match=wanted):
    vision.check_used()


@pytest.mark.soak
def test_beside_adapters_experts_are_frozen_and_biases_move():
  """As in a decoder with adapters on its attention alone."""
  base = model_of()
  own = lora.learner(base, lora.Lora(rank=2, on=('attention',)))
  transform = optimizer.make(OPT, 10, own.decays)
  weights = tiny.weights(base)
  start = own.begin(weights, jax.random.key(0))
  state = states.begin(own, transform, start)
  run = step.make(own, transform, OPT, TrainConfig(steps=10), seed=0)
  state, metrics = jax.device_get(run(state, seeing.batch(), weights))
  found = {p: w for p, w in flat(state).items() if p.startswith('vision/')}
  assert len(found) == 4
  assert all('/router_state/loss_free/' in path for path in found)
  assert all(np.abs(w).max() > 0 for w in found.values())
  assert metrics['vision/encoder/balance/first_choice'] > 0
