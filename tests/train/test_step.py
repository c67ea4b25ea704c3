"""One training step: what it computes, and what must not change it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny

from moejax.core import trees
from moejax.moe import balance
from moejax.moe.balance import bias, gshard, load, switch
from moejax.moe.dispatchers.capacity import Capacity
from moejax.moe.routers.gshard import GShard
from moejax.train import loss as losses
from moejax.train import optimizer, schedule, step
from moejax.train import state as states
from moejax.train.config import TrainConfig

# Unequal numbers of tokens in all micro-batches; of four, one is all padding.
ROWS = ([12], [5, 4], [], [], [3, 1, 6], [1], [2, 10], [7])
BATCH = tiny.batch(ROWS)

# An eps and a decay large enough to see what they do; clipping is active.
OPT = optimizer.OptimizerConfig(
  peak_lr=0.02,
  eps=1e-2,
  weight_decay=0.3,
  clip_norm=0.5,
  schedule=schedule.ConstantSchedule(warmup=4),
)

# Balance losses so large that they matter as much as the text.
MOE = {
  'deepseek': {
    'balance': (load.ExpertLevel(2.0), load.DeviceLevel(3.0, 2)),
  },
  'gshard': {
    'router': GShard(),
    'dispatcher': Capacity(),
    'balance': (
      gshard.GShardAux(3.0),
      load.ExpertLevel(1.0),
      switch.SwitchLoss(1.0, 'multi_hot', 'together'),
    ),
  },
  'dense': {'num_experts': 0},
}


@functools.cache
def model_of(kind='deepseek', devices=1, fsdp=1):
  config = tiny.model_config(num_layers=2, first_dense=0, moe=MOE[kind])
  return tiny.model(config, tiny.mesh(devices, fsdp=fsdp))


def transform_of(model):
  return optimizer.make(OPT, 100, model.decays)


@functools.cache
def step_of(model, micro_batches):
  train = TrainConfig(steps=100, micro_batches=micro_batches)
  return step.make(model, transform_of(model), OPT, train, seed=0)


def fresh(model, weights=None):
  """A state whose arrays are its own: the step takes them over."""
  transform = transform_of(model)
  if weights is None:
    weights = tiny.draw(model.shapes)
  zero = np.zeros((), np.int32)
  empty = jax.tree.map(
    lambda x: np.zeros(x.shape, x.dtype),
    jax.eval_shape(transform.init, model.shapes),
  )
  state = states.State(zero, weights, empty, zero, zero)
  return jax.device_put(state, states.shardings(model, transform))


def adam(opt_state):
  """The part of the optimiser's state that holds the moments."""
  (found,) = (part for part in opt_state if hasattr(part, 'mu'))
  return found


def take(step, state, batch):
  """One step; what comes out as numpy."""
  return jax.device_get(step(state, batch))


@pytest.fixture(scope='module')
def one():
  """A step of the DeepSeekMoE model: the state before, after, metrics."""
  model = model_of()
  before = jax.device_get(fresh(model))
  return before, *take(step_of(model, 1), fresh(model), BATCH)


@functools.partial(jax.jit, static_argnums=0)
def plainly(model, weights, batch):
  """Log-softmax of all logits, plus balance: ((total, text), gradient)."""

  def loss(weights):
    decoder = model.bind(weights)
    out = decoder(batch.token_BL, batch.segment_BL, batch.position_BL)
    log_BLV = jax.nn.log_softmax(decoder.logits(out.x_BLD))
    own_BL = jnp.take_along_axis(log_BLV, batch.target_BL[..., None], -1)
    text = -jnp.sum(own_BL[..., 0] * batch.weight_BL) / batch.weight_BL.sum()
    extra, _ = balance.total(model.config.moe.balance, out.record.balance)
    return text + extra, text

  return jax.value_and_grad(loss, has_aux=True)(weights)


@pytest.fixture(scope='module')
def plain():
  model = model_of()
  return jax.device_get(plainly(model, tiny.weights(model), BATCH))


def norm_of(gradient):
  return np.sqrt(sum(np.sum(g**2) for g in jax.tree.leaves(gradient)))


def test_the_loss_is_log_softmax_plus_balance(plain):
  model = model_of()
  (want, _), want_gradient = plain
  objective = lambda weights: losses.objective(
    model,
    TrainConfig(),
    weights,
    BATCH,
    jnp.arange(8),
    None,
    losses.GlobalBatch(BATCH.weight_BL.sum()),
  )[0]
  got, gradient = jax.jit(jax.value_and_grad(objective))(tiny.weights(model))
  np.testing.assert_allclose(got, want, rtol=1e-5)
  tiny.assert_close(gradient, want_gradient, rtol=1e-4, atol=1e-6)


def test_losses_are_reported_apart(one, plain):
  """The text's without the balance losses, and each of those by its name."""
  (total, text), gradient = plain
  _, _, metrics = one
  assert total > text + 4
  assert metrics['loss'] == pytest.approx(text, rel=1e-5)
  parts = metrics['balance/expert_level'], metrics['balance/device_level']
  # Reported is the mean over the two layers, in the loss is their sum.
  assert 2 * sum(parts) == pytest.approx(total - text, rel=1e-5)
  assert metrics['gradient_norm'] == pytest.approx(norm_of(gradient), rel=1e-4)
  assert metrics['stats']['count_E'].shape == (2, 4)
  assert metrics['stats']['count_E'].sum() == 2 * 2 * BATCH.weight_BL.sum()


def adamw(weights, gradient, moments, count, rate):
  """One step of AdamW (arXiv 1711.05101) with clipping, in numpy."""
  scale = min(1.0, OPT.clip_norm / norm_of(gradient))
  new_weights, new_moments = {}, {}
  for path, w in weights.items():
    g = np.float64(gradient[path]) * scale
    mu, nu = moments[path]
    mu = OPT.beta1 * mu + (1 - OPT.beta1) * g
    nu = OPT.beta2 * nu + (1 - OPT.beta2) * g**2
    mean = mu / (1 - OPT.beta1**count)
    root = np.sqrt(nu / (1 - OPT.beta2**count))
    decay = 0.0 if 'scale' in path else OPT.weight_decay
    new_weights[path] = w - rate * (mean / (root + OPT.eps) + decay * w)
    new_moments[path] = mu, nu
  return new_weights, new_moments


def test_two_steps_are_two_of_plain_adamw(plain):
  """Norms' scales are not decayed, all else is; the second step's rate is the
  second of the warm-up.
  """
  model = model_of()
  state = fresh(model)
  weights = trees.leaves(tiny.draw(model.shapes))
  moments = {path: (0.0, 0.0) for path in weights}
  batches = [BATCH, tiny.batch(ROWS, seed=9)]
  for i, batch in enumerate(batches):
    _, gradient = plainly(model, jax.device_put(state.weights), batch)
    assert norm_of(gradient) > 2 * OPT.clip_norm
    rate = 0.02 * (i + 1) / 4
    weights, moments = adamw(
      weights, trees.leaves(gradient), moments, i + 1, rate
    )
    state, metrics = step_of(model, 1)(state, batch)
    assert float(metrics['learning_rate']) == pytest.approx(rate, rel=1e-6)
    tiny.assert_close(
      trees.leaves(state.weights), weights, rtol=1e-4, atol=1e-6
    )
  assert int(state.step) == 2
  mu = trees.leaves(adam(jax.device_get(state.opt_state)).mu)
  tiny.assert_close(
    mu, {k: m for k, (m, _) in moments.items()}, rtol=1e-3, atol=1e-7
  )


@pytest.mark.soak
@pytest.mark.parametrize('kind', ['deepseek', 'gshard'])
def test_micro_batches_change_nothing(kind):
  model = model_of(kind)
  assert_same_step(model, model, 4)


@pytest.mark.soak
@pytest.mark.parametrize(('devices', 'parts'), [(2, 4), (4, 2)])
def test_micro_batches_on_devices_change_nothing(devices, parts):
  assert_same_step(model_of(), model_of(devices=devices, fsdp=2), parts)


def assert_same_step(plain_model, model, parts):
  want, want_metrics = take(step_of(plain_model, 1), fresh(plain_model), BATCH)
  got, metrics = take(step_of(model, parts), fresh(model), BATCH)
  tiny.assert_close(metrics, want_metrics, rtol=2e-5, atol=1e-6)
  tiny.assert_close(got.weights, want.weights, rtol=1e-5, atol=2e-6)
  tiny.assert_close(
    adam(got.opt_state).mu, adam(want.opt_state).mu, rtol=1e-4, atol=1e-7
  )


@pytest.mark.soak
def test_micro_batches_without_experts():
  model = model_of('dense')
  assert_same_step(model, model, 2)


def poisoned(batch):
  weight_BL = batch.weight_BL.copy()
  weight_BL[7, 2] = np.nan
  return dataclasses.replace(batch, weight_BL=weight_BL)


def assert_kept(new, old):
  """Weights and moments are the old ones, bit for bit."""
  for a, b in zip(
    jax.tree.leaves((new.weights, new.opt_state)),
    jax.tree.leaves((old.weights, old.opt_state)),
    strict=True,
  ):
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.mark.parametrize(
  'sizes',
  [{}, pytest.param({'devices': 2, 'fsdp': 2}, marks=pytest.mark.soak)],
  ids=str,
)
def test_a_step_that_is_not_finite_is_skipped_and_counted(sizes):
  """At once on one device, and in four micro-batches on two."""
  model = model_of(**sizes)
  run = step_of(model, 4 if sizes else 1)
  state, _ = run(fresh(model), BATCH)
  good = jax.device_get(state)
  for i in (1, 2):
    state, metrics = run(state, poisoned(BATCH))
    assert_kept(jax.device_get(state), good)
    assert (state.step, state.bad_steps, state.skipped) == (1 + i, i, i)
    assert (metrics['bad_steps'], metrics['skipped']) == (i, i)
    assert not np.isfinite(metrics['loss'])
  state, metrics = run(state, BATCH)
  assert (state.step, state.bad_steps, state.skipped) == (4, 0, 2)
  assert (metrics['bad_steps'], metrics['skipped']) == (0, 2)
  moved = jax.device_get(state)
  for path, leaf in trees.leaves(moved.weights).items():
    assert np.isfinite(leaf).all(), path
    assert (leaf != trees.leaves(good.weights)[path]).any(), path


@pytest.mark.parametrize(
  ('path', 'bad'),
  [
    ('head_DV', np.inf),
    ('head_DV', np.nan),
    ('head_DV', 1e38),  # finite, but not what is made of it
    ('moe/ffn/routed/w_out_EFD', np.inf),
    ('moe/ffn/router/w_DE', np.nan),
  ],
)
def test_a_weight_that_is_not_finite_stays_as_it_is(path, bad):
  model = model_of()
  weights = tiny.draw(model.shapes)
  trees.leaves(weights)[path].reshape(-1)[3] = bad
  before = jax.device_get(fresh(model, weights))
  after, metrics = take(step_of(model, 1), fresh(model, weights), BATCH)
  assert_kept(after, before)
  assert (after.bad_steps, after.skipped, after.step) == (1, 1, 1)
  assert metrics['bad_steps'] == 1


def test_the_rate_reported_is_the_rate_used():
  """Also after a skipped step, in the middle of the warm-up."""
  model = model_of()
  run = step_of(model, 1)
  state, _ = run(fresh(model), poisoned(BATCH))
  before = jax.device_get(state.weights)
  _, gradient = plainly(model, tiny.weights(model), BATCH)
  state, metrics = take(run, state, BATCH)
  weights, _ = adamw(
    trees.leaves(before),
    trees.leaves(gradient),
    {path: (0.0, 0.0) for path in trees.leaves(before)},
    count=1,
    rate=metrics['learning_rate'],
  )
  tiny.assert_close(trees.leaves(state.weights), weights, rtol=1e-4, atol=1e-6)


def test_clipping_scales_to_the_norm_and_only_down():
  for norm, want in ((0.1, 1.0), (0.5, 1.0), (2.0, 0.25), (0.0, 1.0)):
    assert step._clip_scale(jnp.float32(norm), 0.5) == want
  assert step._clip_scale(jnp.float32(99.0), None) == 1


def test_what_is_decayed():
  """Without a gradient only the decay moves a weight."""
  model = model_of()
  weights = tiny.draw(model.shapes)
  transform = transform_of(model)
  zeros = jax.tree.map(np.zeros_like, weights)
  updates, _ = jax.jit(lambda w: transform.update(zeros, transform.init(w), w))(
    weights
  )
  for path, update in trees.leaves(updates).items():
    decay = 0.0 if path.endswith('scale_D') else 0.02 / 4 * 0.3
    np.testing.assert_allclose(
      update, -decay * trees.leaves(weights)[path], rtol=1e-5, err_msg=path
    )


def test_what_does_not_decay_is_said_by_its_path():
  ones = np.ones((2, 2, 2), np.float32)
  weights = {'routed': {'w_EDF': ones, 'b_in_EF': ones}, 'scale_HK': ones}
  decays = {'routed/w_EDF': True, 'routed/b_in_EF': False, 'scale_HK': False}
  transform = optimizer.make(OPT, 100, decays)
  zeros = jax.tree.map(np.zeros_like, weights)
  updates, _ = transform.update(zeros, transform.init(weights), weights)
  moved = {p for p, u in trees.leaves(updates).items() if np.any(u != 0)}
  assert moved == {'routed/w_EDF'}


def test_moments_lie_as_their_weights():
  model = model_of(devices=4, fsdp=2)
  place = states.shardings(model, transform_of(model))
  for moments in (adam(place.opt_state).mu, adam(place.opt_state).nu):
    assert trees.leaves(moments) == trees.leaves(model.shardings)
  shapes = states.abstract(model, transform_of(model))
  state = fresh(model)
  assert trees.leaves(jax.tree.map(lambda x: (x.shape, x.dtype), state)) == (
    trees.leaves(jax.tree.map(lambda x: (x.shape, x.dtype), shapes))
  )


@pytest.mark.soak
@pytest.mark.parametrize('sizes', [{}, {'expert': 2}], ids=str)
def test_experts_that_a_layer_does_not_have_are_not_trained(sizes):
  """Their weights and biases stay zeros, and no metric counts them."""
  config = tiny.model_config(
    num_layers=2,
    first_dense=0,
    moe={
      'experts_by_layer': (3, 4),
      'balance': (load.ExpertLevel(2.0), bias.LossFree(0.1)),
    },
  )
  devices = 2 if sizes else 1
  model = tiny.model(config, tiny.mesh(devices, **sizes))
  weights = tiny.draw(model.shapes)
  ffn = weights['moe']['ffn']
  # Views of the entries of the last expert of the first layer.
  missing = lambda ffn: [
    *(array[0, 3:] for array in ffn['routed'].values()),
    ffn['router']['w_DE'][0, :, 3:],
    ffn['router_state']['loss_free']['selection_bias_E'][0, 3:],
  ]
  for array in missing(ffn):
    array[...] = 0
  train = TrainConfig(steps=100)
  run = step.make(model, transform_of(model), OPT, train, seed=0)
  state, metrics = take(run, fresh(model, weights), BATCH)
  new = state.weights['moe']['ffn']
  for array in missing(new):
    np.testing.assert_array_equal(array, 0)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))
  count_NE = metrics['stats']['count_E']
  np.testing.assert_array_equal(np.isnan(count_NE[0]), [0, 0, 0, 1])
  assert np.nansum(count_NE[0]) == count_NE[1].sum()
  # The mean load is that of three experts.
  excess_E = count_NE[0, :3].mean() - count_NE[0, :3]
  bias_NE = new['router_state']['loss_free']['selection_bias_E']
  np.testing.assert_allclose(bias_NE[0, :3], 0.1 * np.sign(excess_E))
