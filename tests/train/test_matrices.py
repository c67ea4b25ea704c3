"""Muon against a slow one of NumPy, matrix by matrix."""

import jax
import numpy as np
import pytest
from helpers import tiny

from moejax.core import trees
from moejax.train import matrices, optimizer, parts, schedule

LR, DECAY = 0.1, 0.3


MUON = matrices.Muon()


def options(*listed, muon=MUON, **changes):
  return optimizer.OptimizerConfig(
    peak_lr=LR,
    weight_decay=DECAY,
    schedule=schedule.ConstantSchedule(warmup=0),
    matrices=muon,
    parts=listed,
    **changes,
  )


def newton_schulz(g, iterations=5):
  """As K. Jordan (2024) writes it: a quintic iteration, on the wide side."""
  x = g / np.linalg.norm(g)
  x = x.T if g.shape[0] > g.shape[1] else x
  for _ in range(iterations):
    a = x @ x.T
    x = 3.4445 * x + (-4.775 * a + 2.0315 * a @ a) @ x
  return x.T if g.shape[0] > g.shape[1] else x


def slow(weight, gradients, rms=0.2, momentum=0.95):
  """A matrix after steps of Muon with Nesterov's momentum."""
  mean = np.zeros_like(weight)
  for t, g in enumerate(gradients, 1):
    mean = momentum * mean + (1 - momentum) * g
    ahead = momentum * mean / (1 - momentum ** (t + 1))
    ahead = ahead + (1 - momentum) * g / (1 - momentum**t)
    update = newton_schulz(ahead) * rms * np.sqrt(max(weight.shape))
    weight = weight - LR * (update + DECAY * weight)
  return weight


# By name of a weight, its shape, and the matrices in it: for each the place in
# the stack, and its shape as a matrix.
SHAPES = {
  'w_q_DHK': ((2, 6, 2, 4), lambda w: [x.reshape(6, 8) for x in w]),
  'w_o_HKD': ((2, 2, 4, 6), lambda w: [x.reshape(8, 6) for x in w]),
  'w_in_ED2F': (
    (2, 3, 6, 2, 5),
    lambda w: [
      w[n, e, :, h] for n in (0, 1) for e in (0, 1, 2) for h in (0, 1)
    ],
  ),
  'w_out_EFD': ((2, 3, 5, 6), lambda w: [*w.reshape(6, 5, 6)]),
  'router/w_DE': ((2, 6, 3), list),
  'w_dkv_DR': ((6, 4), lambda w: [w]),
}


@pytest.fixture(scope='module')
def moved():
  """Weights, their gradients in two steps, and the weights afterwards."""
  rng = np.random.default_rng(0)
  draw = lambda: {
    name: rng.standard_normal(shape).astype(np.float32)
    for name, (shape, _) in SHAPES.items()
  }
  begin, *gradients = draw(), draw(), draw()
  transform = optimizer.make(options(), 10, dict.fromkeys(SHAPES, True))
  weights, state = begin, transform.init(begin)
  update = jax.jit(transform.update)
  for gradient in gradients:
    updates, state = update(gradient, state, weights)
    weights = jax.tree.map(np.add, weights, updates)
  return begin, gradients, weights


@pytest.mark.parametrize('name', SHAPES)
def test_every_matrix_of_a_stack_is_made_orthogonal_by_itself(name, moved):
  begin, gradients, after = moved
  split = SHAPES[name][1]
  found = split(np.asarray(after[name]))
  wanted = zip(
    split(begin[name]), *(split(g[name]) for g in gradients), strict=True
  )
  for one, (weight, *own) in zip(found, wanted, strict=True):
    np.testing.assert_allclose(one, slow(weight, own), rtol=1e-4, atol=1e-5)


def test_of_a_model_only_embeddings_and_head_are_no_matrices():
  model = tiny.model()
  no_matrices = {
    path
    for path, decays in model.decays.items()
    if decays and not matrices.is_matrix(path, decays)
  }
  assert no_matrices == {'embed_VD', 'head_DV'}
  # Nor what does not decay, whatever its shape.
  assert not matrices.is_matrix('moe/w_DF', decays=False)


def test_other_weights_move_as_by_adamw():
  weights = {'embed_VD': np.ones((4, 6), np.float32)}
  decays = {'embed_VD': True}
  found = [
    make.update(weights, make.init(weights), weights)[0]['embed_VD']
    for make in (
      optimizer.make(options(), 10, decays),
      optimizer.make(options(muon=matrices.AdamW()), 10, decays),
    )
  ]
  np.testing.assert_array_equal(*found)


def test_parts_have_their_rate_and_frozen_ones_stay():
  rng = np.random.default_rng(1)
  weights = {
    name: {'w_DF': rng.standard_normal((4, 6)).astype(np.float32)}
    for name in ('slow', 'frozen', 'rest')
  }
  for part in weights.values():
    part['w_DF'] = weights['rest']['w_DF']
  decays = {f'{name}/w_DF': True for name in weights}
  listed = parts.Part('a', 'slow', 0.25), parts.Part('b', 'frozen', 0.0)
  transform = optimizer.make(options(*listed), 10, decays)
  found, _ = transform.update(weights, transform.init(weights), weights)
  full = found['rest']['w_DF']
  np.testing.assert_allclose(found['slow']['w_DF'], 0.25 * full, rtol=1e-5)
  assert not np.any(found['frozen']['w_DF'])
  assert np.any(full)


def test_momentum_lies_where_its_weight_lies_and_the_step_is_the_same():
  """On eight devices, with weights split over two axes, as on one."""
  found = []
  for mesh in (tiny.mesh(), tiny.mesh(8, data=2, fsdp=2, expert=2)):
    model = tiny.model(tiny.MODEL, mesh)
    weights = tiny.weights(model)
    transform = optimizer.make(options(), 10, model.decays)
    shapes = jax.eval_shape(transform.init, weights)
    replicated = jax.sharding.NamedSharding(mesh, jax.P())
    where = optimizer.shardings(shapes, model.shardings, replicated)
    for path, sharding in trees.leaves(where).items():
      own = [p for p in model.decays if path.endswith(f'/{p}')]
      if own:
        weight = trees.leaves(model.shardings)[own[0]]
        assert sharding == weight, path
    state = jax.jit(transform.init, out_shardings=where)(weights)
    updates, _ = jax.jit(transform.update)(weights, state, weights)
    found.append(jax.device_get(trees.leaves(updates)))
  for path, update in found[0].items():
    np.testing.assert_allclose(
      update, found[1][path], rtol=1e-3, atol=1e-5, err_msg=path
    )
