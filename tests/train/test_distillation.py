"""Distillation in the training step: its loss, and what must not change it."""

import dataclasses
import functools
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import hf_process, tiny

from moejax.compress import distillation as plain
from moejax.core import config_tree, errors
from moejax.train import distillation_loss, loss, optimizer, step
from moejax.train import state as states
from moejax.train.config import TrainConfig
from moejax.train.distillation import Distillation, Teacher
from moejax.train.distillation_loss import Heads

LN = np.log
D, E, V = 6, 4, 37
TAUGHT = Distillation(weight=0.7, temperature=1.7)


def test_the_loss_by_hand():
  """The two tokens of tests/compress/test_distillation.py, as two models."""
  student_2V = np.array([[0.0, LN(3)], [7, 7]])
  teacher_2V = np.array([[5.0, 5], [0, 2 * LN(2)]])
  heads = Heads(
    jnp.eye(2)[None],
    jnp.asarray(student_2V, jnp.float32),
    jnp.eye(2)[None],
    jnp.asarray(teacher_2V, jnp.float32),
  )
  got = distillation_loss.losses(
    heads, jnp.array([[1, 0]]), jnp.ones((1, 2)), Distillation(), 1
  )
  # At temperature 2 the student has 1 : sqrt(3) and 1 : 1, the teacher 1 : 1
  # and 1 : 2.
  p = 1 / (1 + np.sqrt(3))
  first = 0.5 * LN(0.5 / p) + 0.5 * LN(0.5 / (1 - p))
  second = LN((1 / 3) / 0.5) / 3 + 2 * LN((2 / 3) / 0.5) / 3
  np.testing.assert_allclose(got.nll_BL, [[LN(4 / 3), LN(2)]], rtol=1e-6)
  np.testing.assert_allclose(got.divergence_BL, [[first, second]], rtol=1e-5)
  assert got.total == pytest.approx(
    LN(4 / 3) + LN(2) + 0.2 * (first + second), rel=1e-6
  )
  assert got.correct_BL.tolist() == [[True, True]]


def inputs(B=4, L=10, dtype=jnp.float32):
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)
  heads = Heads(draw(B, L, D), draw(D, V), draw(B, L, E), draw(E, V))
  target_BL = jnp.asarray(rng.integers(0, V, (B, L)), jnp.int32)
  weight_BL = jnp.asarray(rng.random((B, L)), jnp.float32)
  return heads, target_BL, weight_BL.at[:, 2].set(0)


def at_once(heads, target_BL, weight_BL):
  """All logits at once, by the plain form, and the gradient by JAX."""
  logits = lambda x, w: x.astype(jnp.float32) @ w.astype(jnp.float32)
  return plain.losses(
    logits(heads.x_BLD, heads.w_DV).reshape(-1, V),
    logits(heads.h_BLE, heads.v_EV).reshape(-1, V),
    target_BL.reshape(-1),
    weight_BL.reshape(-1),
    TAUGHT,
    jnp,
  ).total * jnp.sum(weight_BL)


def in_chunks(heads, target_BL, weight_BL, **options):
  return distillation_loss.losses(
    heads, target_BL, weight_BL, TAUGHT, **options
  ).total


def gradients(function, arrays, **options):
  """Of three times the sum: its value, and gradients to x, w and weight."""
  heads, target_BL, weight_BL = arrays

  def three(x, w, weight):
    own = heads._replace(x_BLD=x, w_DV=w)
    return 3 * function(own, target_BL, weight, **options)

  grad = jax.value_and_grad(three, argnums=(0, 1, 2))
  return jax.jit(grad)(heads.x_BLD, heads.w_DV, weight_BL)


# All at once, chunks that need padding, one place at a time.
@pytest.mark.parametrize('chunk_tokens', [512, 12, 1])
def test_values_and_gradients_equal_all_at_once(chunk_tokens):
  got = gradients(in_chunks, inputs(), chunk_tokens=chunk_tokens)
  want = gradients(at_once, inputs())
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


# Two rows of three tokens with a vocabulary of five; one token is left out.
FEW_BLV = np.random.default_rng(1).normal(size=(2, 2, 3, 5), scale=2)
FEW_TARGET_BL = np.array([[0, 4, 2], [3, 3, 1]])
FEW_WEIGHT_BL = np.array([[1, 0.5, 1], [0, 2, 1]])


def of_logits(logits_BLV, teacher_BLV):
  """The loss of training, and its gradient by the student's logits.

  Hidden states that are the logits themselves, behind a head of ones and zeros.
  """
  to_array = lambda x: jnp.asarray(x, jnp.float32)
  heads = Heads(*map(to_array, (logits_BLV, np.eye(5), teacher_BLV, np.eye(5))))
  arrays = heads, jnp.asarray(FEW_TARGET_BL), to_array(FEW_WEIGHT_BL)
  three, (gradient_BLV, *_) = gradients(in_chunks, arrays, chunk_tokens=2)
  return three / 3, gradient_BLV / 3


def token_by_token(logits_BLV, teacher_BLV):
  """The loss as the paper states it, by a loop over tokens and ids."""
  total = 0.0
  for row, tokens in enumerate(logits_BLV):
    for t, logit_V in enumerate(tokens):
      softmax = lambda z: [np.exp(x) / sum(np.exp(z)) for x in z]
      student = softmax(logit_V / TAUGHT.temperature)
      teacher = softmax(teacher_BLV[row, t] / TAUGHT.temperature)
      loss = -LN(softmax(logit_V)[FEW_TARGET_BL[row, t]])
      for p, q in zip(student, teacher, strict=True):
        loss += TAUGHT.weight * q * LN(q / p)
      total += FEW_WEIGHT_BL[row, t] * loss
  return total


def test_value_and_gradient_are_those_of_a_loop_over_tokens():
  """The gradient is that of differences, in float64."""
  logits_BLV, teacher_BLV = FEW_BLV
  value, gradient_BLV = of_logits(logits_BLV, teacher_BLV)
  assert value == pytest.approx(
    token_by_token(logits_BLV, teacher_BLV), rel=1e-6
  )
  for place in np.ndindex(logits_BLV.shape):
    step = np.zeros_like(logits_BLV)
    step[place] = 1e-5
    up = token_by_token(logits_BLV + step, teacher_BLV)
    down = token_by_token(logits_BLV - step, teacher_BLV)
    assert gradient_BLV[place] == pytest.approx((up - down) / 2e-5, abs=2e-6)


IN_TORCH = """
import sys
import numpy as np, torch
from torch.nn import functional as F

given = np.load(sys.argv[1])
logits, teacher, target, token = (torch.tensor(given[k]) for k in (
  'logits', 'teacher', 'target', 'token'))
logits.requires_grad_()
weight, temperature = given['taught']
cross_entropy = F.cross_entropy(logits, target, reduction='none')
divergence = F.kl_div(
  F.log_softmax(logits / temperature, dim=-1),
  F.softmax(teacher / temperature, dim=-1),
  reduction='none',
).sum(dim=-1)
total = (token * (cross_entropy + weight * divergence)).sum()
total.backward()
np.savez(sys.argv[2], total=total.detach(), gradient=logits.grad)
"""


@pytest.mark.hf
def test_value_and_gradient_are_those_of_torch(tmp_path):
  if not hf_process.is_there():
    pytest.skip(f'{hf_process.PYTHON} has no torch and transformers')
  np.savez(
    tmp_path / 'given.npz',
    logits=FEW_BLV[0].reshape(-1, 5),
    teacher=FEW_BLV[1].reshape(-1, 5),
    target=FEW_TARGET_BL.reshape(-1),
    token=FEW_WEIGHT_BL.reshape(-1),
    taught=[TAUGHT.weight, TAUGHT.temperature],
  )
  words = ['-c', IN_TORCH, 'given.npz', 'theirs.npz']
  subprocess.run([hf_process.PYTHON, *words], cwd=tmp_path, check=True)
  theirs = np.load(tmp_path / 'theirs.npz')
  value, gradient_BLV = of_logits(*FEW_BLV)
  np.testing.assert_allclose(value, theirs['total'], rtol=1e-6)
  np.testing.assert_allclose(
    gradient_BLV.reshape(-1, 5), theirs['gradient'], atol=2e-6
  )


def test_without_a_gradient_the_values_are_the_same():
  arrays = inputs()
  whole = distillation_loss.losses(*arrays, TAUGHT)
  cut = distillation_loss.losses(*arrays, TAUGHT, chunk_tokens=12)
  three, _ = gradients(in_chunks, arrays)
  np.testing.assert_allclose(whole.total, three / 3, rtol=1e-6)
  for a, b in zip(whole, cut, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-6)


def test_the_teacher_has_no_gradient():
  heads, target_BL, weight_BL = inputs()

  def total(h, v):
    own = heads._replace(h_BLE=h, v_EV=v)
    return in_chunks(own, target_BL, weight_BL)

  moved = jax.grad(total, argnums=(0, 1))(heads.h_BLE, heads.v_EV)
  assert not any(np.any(x) for x in moved)


def test_bfloat16_stays_near_float32():
  arrays = inputs(dtype=jnp.bfloat16)
  got = gradients(in_chunks, arrays, chunk_tokens=12)
  want = gradients(at_once, arrays)
  np.testing.assert_allclose(got[0], want[0], rtol=1e-4)
  for a, b in zip(got[1], want[1], strict=True):
    assert a.dtype == b.dtype
    error = np.abs(np.asarray(a, np.float32) - np.asarray(b, np.float32))
    # Only the gradients by the logits are rounded, by 2^-9.
    assert error.max() < 2**-6 * np.abs(np.asarray(b, np.float32)).max()


def test_large_logits_are_finite():
  heads, *rest = inputs()
  large = Heads(1e4 * heads.x_BLD, heads.w_DV, -1e4 * heads.h_BLE, heads.v_EV)
  for leaf in jax.tree.leaves(gradients(in_chunks, (large, *rest))):
    assert np.all(np.isfinite(leaf))


# Unequal numbers of tokens in all micro-batches.
ROWS = ([12], [5, 4], [], [], [3, 1, 6], [1], [2, 10], [7])
BATCH = tiny.batch(ROWS)
OPT = optimizer.OptimizerConfig(peak_lr=0.02, eps=1e-2, clip_norm=0.5)
STUDENT = tiny.model_config(num_layers=1, first_dense=0)
# Another width, another number of experts and of layers, the same vocabulary.
TEACHER = dataclasses.replace(
  tiny.model_config(num_layers=2, first_dense=1, moe={'num_experts': 8}),
  width=12,
)


@functools.cache
def models(devices=1, dtype='float32', **sizes):
  mesh = tiny.mesh(devices, **sizes)
  return tuple(
    tiny.model(dataclasses.replace(config, dtype=dtype), mesh)
    for config in (STUDENT, TEACHER)
  )


def take(student, teacher, micro_batches=1, distillation=TAUGHT, seed=0):
  """One step: metrics and state as numpy, and the step for its text."""
  train = TrainConfig(
    steps=100, micro_batches=micro_batches, distillation=distillation
  )
  transform = optimizer.make(OPT, 100, student.decays)
  run = step.make(student, transform, OPT, train, 0, teacher)
  # std: logits far from even, so that the divergence matters.
  state = states.begin(student, transform, tiny.weights(student, seed))
  taught = tiny.weights(teacher, seed=1)
  state, metrics = run(state, BATCH, taught)
  return jax.device_get((metrics, state.weights))


@pytest.fixture(scope='module')
def one():
  return take(*models())


def logits(model, weights):
  def run(weights):
    decoder = model.bind(weights)
    out = decoder(BATCH.token_BL, BATCH.segment_BL, BATCH.position_BL)
    return decoder.logits(out.x_BLD)

  return np.float64(jax.jit(run)(weights)).reshape(-1, model.config.vocab_size)


def test_the_step_reports_both_losses_under_their_names(one):
  """Against the plain form in NumPy on the logits of both whole models."""
  metrics, _ = one
  student, teacher = models()
  want = plain.losses(
    logits(student, tiny.weights(student, 0)),
    logits(teacher, tiny.weights(teacher, seed=1)),
    BATCH.target_BL.reshape(-1),
    BATCH.weight_BL.reshape(-1),
    TAUGHT,
  )
  assert metrics['loss'] == pytest.approx(want.cross_entropy, rel=1e-5)
  assert metrics['distillation'] == pytest.approx(want.divergence, rel=1e-5)


def test_the_divergence_is_in_the_gradient(one):
  metrics, weights = one
  student, teacher = models()
  free = dataclasses.replace(TAUGHT, weight=0)
  other_metrics, other = take(student, teacher, distillation=free)
  # Measured all the same, and not trained on.
  assert other_metrics['distillation'] == metrics['distillation']
  assert other_metrics['gradient_norm'] != metrics['gradient_norm']
  assert np.any(other['head_DV'] != weights['head_DV'])


def assert_same(got, want, rtol=1e-5):
  tiny.assert_close(got[0], want[0], rtol=2 * rtol, atol=1e-6)
  tiny.assert_close(got[1], want[1], rtol=rtol, atol=2e-6)


@pytest.mark.soak
def test_micro_batches_change_nothing(one):
  assert_same(take(*models(), micro_batches=4), one)


@pytest.mark.soak
def test_eight_devices_change_nothing(one):
  """Data, fully sharded weights, and experts, of both models."""
  assert_same(take(*models(devices=8, fsdp=2, expert=2)), one)


@pytest.mark.soak
def test_bfloat16_is_near(one):
  metrics, _ = take(*models(dtype='bfloat16'))
  for name in ('loss', 'distillation'):
    assert metrics[name] == pytest.approx(one[0][name], rel=0.03), name


def text(train, teacher=None):
  student, _ = models()
  transform = optimizer.make(OPT, 100, student.decays)
  run = step.make(student, transform, OPT, train, 0, teacher)
  state = states.abstract(student, transform)
  taught = [teacher.shapes] if teacher else []
  return run.lower(state, BATCH, *taught).as_text()


def test_a_step_without_a_teacher_has_nothing_of_distillation(monkeypatch):
  """Its program is made without any of it, and does not read its keys."""

  def called(*_):
    raise AssertionError('distillation was called')

  without = text(TrainConfig(steps=100))
  monkeypatch.setattr(distillation_loss, 'on_mesh', called)
  monkeypatch.setattr(loss, '_distilled', called)
  monkeypatch.setattr(Teacher, '__call__', called)
  changed = Distillation(weight=3.0, temperature=5.0)
  assert text(TrainConfig(steps=100, distillation=changed)) == without
  with pytest.raises(AssertionError, match='distillation was called'):
    text(TrainConfig(steps=100), models()[1])


@pytest.mark.parametrize(
  ('changes', 'line'),
  [
    ({'weight': '-0.1'}, 'train.distillation.weight=-0.1'),
    ({'weight': '2000'}, 'train.distillation.weight=2000'),
    ({'temperature': '0'}, 'train.distillation.temperature=0'),
    ({'wieght': '1'}, 'weight'),
    ({'teacher_step': 'last'}, "teacher_step='last' must be newest, best or"),
    ({'teacher_step': '7'}, 'train.distillation.teacher, which is empty'),
  ],
)
def test_a_bad_value_is_one_line(changes, line):
  overrides = [(f'distillation.{k}', v) for k, v in changes.items()]
  with pytest.raises(errors.InputError) as error:
    config_tree.override_all(TrainConfig(), overrides).check()
  assert line.removeprefix('train.') in str(error.value)
  assert '\n' not in str(error.value)
