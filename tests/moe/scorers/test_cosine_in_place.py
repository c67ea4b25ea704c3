"""Experts' embeddings that are set to a norm in place, as LibMoE's XMoE does.

There, without a gradient, `mu *= 1.5 / |mu|` comes before the logits z . mu /
0.3 are taken, z being a token's projection over its length.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny

from moejax.moe.routers.hierarchical import Hierarchical
from moejax.moe.scorers import Cosine
from moejax.moe.scorers.base import ScorerInput
from moejax.train import optimizer, schedule, step
from moejax.train import state as states
from moejax.train.config import TrainConfig

NORM, TAU, RATE = 1.5, 0.3, 0.05
IN_PLACE = Cosine(width=3, learns_tau=False, row_norm=NORM, in_place=True)
# The same but for this.
ELSE = dataclasses.replace(IN_PLACE, in_place=False)
T, D, Z, E = 6, 5, 3, 4
RNG = np.random.default_rng(0)
X_TD, PULL_TE = RNG.normal(size=(T, D)), RNG.normal(size=(T, E))
W = {'w_DZ': RNG.normal(size=(D, Z)), 'w_EZ': RNG.normal(size=(E, Z))}


def length(x_NZ):
  return np.sqrt((np.asarray(x_NZ) ** 2).sum(axis=-1, keepdims=True))


@functools.partial(jax.jit, static_argnums=0)
def gradient(scorer, w_EZ):
  """Of the sum of pull times logits, to the experts' embeddings."""
  given = ScorerInput(jnp.asarray(X_TD, jnp.float32), jnp.zeros(T, jnp.int32))

  def loss(w_EZ):
    w = {'w_DZ': jnp.asarray(W['w_DZ'], jnp.float32), 'w_EZ': w_EZ}
    return jnp.vdot(jnp.asarray(PULL_TE, jnp.float32), scorer(w, given))

  return jax.grad(loss)(jnp.asarray(w_EZ, jnp.float32))


def slowly(mu_EZ, steps):
  """Embeddings after so many steps of gradient descent, by loops."""
  mu_EZ = np.array(mu_EZ)
  for _ in range(steps):
    for mu_Z in mu_EZ:
      mu_Z *= NORM / np.linalg.norm(mu_Z)
    slope_EZ = np.zeros_like(mu_EZ)
    for x_D, pull_E in zip(X_TD, PULL_TE, strict=True):
      z_Z = x_D @ W['w_DZ']
      z_Z /= np.linalg.norm(z_Z)
      for e in range(E):
        slope_EZ[e] += pull_E[e] * z_Z / TAU
    mu_EZ -= RATE * slope_EZ
  return mu_EZ


def stepped(scorer, steps):
  """The same with a scorer; directions, whatever their norms."""
  w = scorer.after_step({'w_EZ': jnp.asarray(W['w_EZ'], jnp.float32)})
  for _ in range(steps):
    slope_EZ = gradient(scorer, w['w_EZ'])
    w = scorer.after_step({'w_EZ': w['w_EZ'] - RATE * slope_EZ})
  return w['w_EZ']


def test_steps_are_those_of_the_loops():
  want_EZ = slowly(W['w_EZ'], 5)
  want_EZ *= NORM / length(want_EZ)
  got_EZ = stepped(IN_PLACE, 5)
  np.testing.assert_allclose(got_EZ, want_EZ, rtol=1e-4, atol=1e-4)
  other_EZ = stepped(ELSE, 5)
  other_EZ *= NORM / length(other_EZ)
  assert np.abs(other_EZ - want_EZ).max() > 0.1


def test_the_gradient_along_an_embedding_is_zero_only_elsewhere():
  mu_EZ = NORM * W['w_EZ'] / length(W['w_EZ'])
  z_TZ = X_TD @ W['w_DZ']
  slope_EZ = PULL_TE.T @ (z_TZ / length(z_TZ)) / TAU
  got_EZ = gradient(IN_PLACE, mu_EZ)
  np.testing.assert_allclose(got_EZ, slope_EZ, rtol=1e-4, atol=1e-5)
  along_E = (slope_EZ * mu_EZ).sum(axis=1) / NORM**2
  assert np.abs(along_E).min() > 0.1
  other_EZ = gradient(ELSE, mu_EZ)
  across_EZ = slope_EZ - along_E[:, None] * mu_EZ
  np.testing.assert_allclose(other_EZ, across_EZ, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose((other_EZ * mu_EZ).sum(axis=1), 0, atol=1e-5)


def test_they_start_with_that_norm():
  params = IN_PLACE.init(jax.random.key(0), D, E, 0.02)
  np.testing.assert_allclose(length(params['w_EZ'][...]), NORM, rtol=1e-6)


# The second shows that the first says something.
@pytest.mark.soak
@pytest.mark.parametrize('scorer', [IN_PLACE, ELSE], ids=['in place', 'else'])
def test_a_training_step_sets_them_again(scorer):
  """The layer's scorer and a router's own; the optimiser moves them."""
  router = Hierarchical(outer=scorer)
  model = tiny.model(
    tiny.model_config(
      num_layers=2, first_dense=0, moe={'scorer': scorer, 'router': router}
    )
  )
  opt = optimizer.OptimizerConfig(
    peak_lr=0.1, weight_decay=0.3, schedule=schedule.ConstantSchedule(warmup=0)
  )
  transform = optimizer.make(opt, 10, model.decays)
  drawn = tiny.draw(model.shapes)
  state = states.begin(model, transform, tiny.weights(model))
  run = step.make(model, transform, opt, TrainConfig(steps=10), seed=0)
  state, _ = run(state, tiny.batch([[12], [5, 4]]))
  old, new = (w['moe']['ffn'] for w in (drawn, state.weights))
  for of in (lambda w: w['router'], lambda w: w['extra_scorers']['outer']):
    before, after = of(old)['w_EZ'], np.asarray(of(new)['w_EZ'])
    is_set = np.abs(length(after) - NORM).max() < 1e-5
    assert is_set == scorer.in_place
    before, after = before / length(before), after / length(after)
    assert np.abs(after - before).max() > 0.01
