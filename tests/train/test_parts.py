"""Parts of a model train at rates of their own, and frozen parts not at all."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import seeing, tiny

from moejax import config
from moejax.core import errors, trees
from moejax.moe.balance import bias
from moejax.train import bad_steps, lora, optimizer, parts, schedule, step
from moejax.train import state as states
from moejax.train.config import TrainConfig

ENCODER = parts.Part('encoder', 'vision/encoder', 0.0)
TEXT = parts.Part('text', 'embed_VD, head_DV, moe, norm', 0.0)


def options(*listed):
  return optimizer.OptimizerConfig(
    peak_lr=0.1,
    weight_decay=0.1,
    schedule=schedule.ConstantSchedule(warmup=0),
    parts=listed,
  )


@pytest.fixture(scope='module')
def stage_1():
  """Weights before and after two steps of the projector, and the last step's
  metrics. The router has a bias that moves by a rule of its own."""
  model = seeing.model(moe={'balance': (bias.LossFree(),)})
  opt = options(ENCODER, TEXT)
  transform = optimizer.make(opt, 10, model.decays)
  weights = tiny.weights(model)
  before = jax.device_get(trees.leaves(weights))
  state = states.begin(model, transform, weights)
  run = step.make(model, transform, opt, TrainConfig(steps=10), seed=0)
  for _ in range(2):
    state, metrics = run(state, seeing.batch())
  return before, state, metrics


def test_frozen_parts_keep_their_bits_and_the_rest_moves(stage_1):
  """Stage 1 of LLaVA: the projector alone is trained."""
  before, state, _ = stage_1
  after = jax.device_get(trees.leaves(state.weights))
  assert any('router_state' in path for path in before)
  moved = {p for p in before if not np.array_equal(before[p], after[p])}
  assert moved == {p for p in before if p.startswith('vision/projector/')}
  # Only they have moments.
  moments = [p for p in trees.leaves(state.opt_state) if '/mu/' in p]
  assert len(moments) == len(moved)


def test_frozen_weights_have_no_share_in_the_norm_that_is_clipped(stage_1):
  before, _, metrics = stage_1
  norms = dict(zip(before, metrics[bad_steps.LEAF_NORMS], strict=True))
  for path, norm in norms.items():
    assert (norm > 0) == path.startswith('vision/projector/'), path


def test_the_first_step_is_as_long_as_the_factor_says():
  """AdamW moves each weight by lr, whatever the gradient, and decays it."""
  weights = {'a': jnp.float32([1.0, 2.0]), 'b': {'c': jnp.float32([3.0])}}
  gradient = {'a': jnp.float32([5.0, -1.0]), 'b': {'c': jnp.float32([0.5])}}
  decays = {'a': True, 'b/c': True}
  opt = options(parts.Part('slow', 'b', 0.25))
  transform = optimizer.make(opt, 10, decays)
  found, _ = transform.update(gradient, transform.init(weights), weights)
  np.testing.assert_allclose(found['a'], [-0.1 - 0.01, 0.1 - 0.02], 1e-5)
  np.testing.assert_allclose(found['b']['c'], [0.25 * (-0.1 - 0.03)], 1e-5)


PATHS = ('embed_VD', 'moe/ffn/router/w_DE', 'vision/encoder/b_D')


@pytest.mark.parametrize(
  ('listed', 'message'),
  [
    (
      [parts.Part('a', 'vision/projector')],
      r"opt\.parts\.a\.weights='vision/projector': the model has no weight "
      r"'vision/projector'; its weights are below embed_VD, moe, vision/enc",
    ),
    ([parts.Part('a')], r"opt\.parts\.a\.weights=''"),
    (
      [parts.Part('a', 'moe'), parts.Part('b', '*/w_DE')],
      r'opt\.parts\.a and opt\.parts\.b both have the weight moe/ffn/router',
    ),
    ([parts.Part('a', '*', 0)], 'freezes all weights'),
  ],
)
def test_parts_that_do_not_fit_are_refused(listed, message):
  with pytest.raises(errors.InputError, match=message):
    parts.factors(listed, PATHS)


@pytest.mark.parametrize(
  ('pattern', 'wanted'),
  [
    ('moe', {'moe/ffn/router/w_DE'}),
    ('/vision/', {'vision/encoder/b_D'}),
    ('*/b_?', {'vision/encoder/b_D'}),
    ('mo', set()),
    ('embed_VD,vision/encoder', {'embed_VD', 'vision/encoder/b_D'}),
  ],
)
def test_a_path_stands_for_all_below_it(pattern, wanted):
  part = parts.Part('a', pattern, 0)
  assert {path for path in PATHS if part.has(path)} == wanted


def test_parts_beside_adapters_are_refused():
  train = TrainConfig(lora=lora.Lora(rank=2))
  with pytest.raises(errors.InputError, match='lora.rank=2 trains adapters'):
    config.Run(opt=options(ENCODER), train=train).check()


def test_without_parts_the_optimiser_is_as_before():
  """Old checkpoints open: the state has the same paths."""
  weights = {'w': jnp.ones(3)}
  made = optimizer.make(options(), 10, {'w': True}).init(weights)
  plain = optax.adamw(lambda step: 0.1, mask={'w': True}).init(weights)
  assert [*trees.leaves(made)] == [*trees.leaves(plain)]


def test_a_factor_is_not_negative():
  with pytest.raises(errors.InputError, match='lr_factor=-1'):
    dataclasses.replace(ENCODER, lr_factor=-1)
