"""Projectors compute their formulas, token by token."""

import math

import jax
import numpy as np
import pytest

from moejax.parallel import mesh as meshes
from moejax.vision import build, projector

X_BND = np.random.default_rng(0).normal(size=(2, 3, 6)).astype(np.float32)


def random(weights):
  rng = np.random.default_rng(1)
  draw = lambda x: rng.normal(size=x.shape).astype(np.float32)
  return jax.tree.map(draw, weights)


def made(config):
  mesh = meshes.make(meshes.MeshConfig(data=1), jax.devices()[:1])
  return build.structure(lambda key: config.make(6, 5, mesh, key), mesh)


def linear(w, x):
  return x @ w['w_FD'] + w['b_D']


def mlp(w, x):
  """With the exact GELU, by the error function."""
  h = x @ w['w_in_DF'] + w['b_in_F']
  h = h * (1 + np.vectorize(math.erf)(h / math.sqrt(2))) / 2
  return h @ w['w_out_FD'] + w['b_out_D']


@pytest.mark.parametrize(
  ('name', 'formula'), [('linear', linear), ('mlp', mlp)]
)
def test_it_computes_its_formula(name, formula):
  structure = made(projector.PROJECTORS[name]())
  weights = random(structure.shapes)
  out = structure.bind(weights)(X_BND)
  np.testing.assert_allclose(out, formula(weights, X_BND), 1e-5, 1e-5)


def test_the_table_is_covered():
  assert projector.PROJECTORS.keys() == {'experts', 'linear', 'mlp'}


@pytest.mark.parametrize(('hidden', 'width'), [(0, 5), (7, 7)])
def test_the_width_between_the_matrices(hidden, width):
  structure = made(projector.MLP(hidden_width=hidden))
  assert structure.shapes['w_in_DF'].shape == (6, width)
  weights = structure.init(jax.random.key(0))
  assert weights['w_out_FD'].shape == (width, 5)
  assert 0.01 < np.std(weights['w_in_DF']) < 0.03
