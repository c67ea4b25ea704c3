"""An upcycled model computes what the dense one did, where it must."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny

from moejax.convert import upcycle
from moejax.core import errors, trees
from moejax.model import build
from moejax.moe.config import MoEConfig
from moejax.moe.routers import ROUTERS

DENSE = tiny.model_config(moe={'num_experts': 0}, num_layers=3, first_dense=0)
TOP_K = functools.partial(ROUTERS['top_k'], renormalise=True)
ROWS = ([5, 4], [12])


def sparse(num, width, router, shared=0, **changes):
  moe = MoEConfig(
    num_experts=num, expert_width=width, num_shared=shared, router=router
  )
  return dataclasses.replace(DENSE, moe=moe, **changes)


@functools.cache
def dense_weights():
  return tiny.weights(tiny.model(DENSE))


@functools.cache
def program(config):
  model, batch = tiny.model(config), tiny.batch(ROWS)
  return jax.jit(
    lambda weights: (
      model.bind(weights)(
        batch.token_BL, batch.segment_BL, batch.position_BL
      ).x_BLD
    )
  )


def hidden(config, weights):
  # Experts leave padding alone, a dense layer does not.
  valid_BL = tiny.batch(ROWS).segment_BL > 0
  return np.asarray(program(config)(weights))[valid_BL]


def upcycled(config, **how):
  return upcycle.upcycle(
    DENSE, config, dense_weights(), upcycle.Upcycling(**how)
  )


@pytest.fixture
def drawn(monkeypatch):
  """Fresh weights are drawn by NumPy: by JAX they take seconds to compile."""
  monkeypatch.setattr(build.Model, 'init', lambda self, _: tiny.weights(self))


SAME = {
  'copies': (sparse(4, 12, TOP_K(k=2)), {}),
  'copies, scaled gates': (sparse(4, 12, TOP_K(k=2, scale=2.5)), {}),
  'slices': (sparse(6, 4, TOP_K(k=3)), {}),
  'two copies of all slices': (sparse(9, 4, TOP_K(k=6)), {}),
  'one slice shared': (sparse(4, 4, TOP_K(k=2), shared=1), {}),
  'first layer dense': (
    sparse(4, 6, TOP_K(k=2), shared=1, first_dense=1),
    {},
  ),
  'every third layer': (sparse(4, 12, TOP_K(k=2), moe_every=3), {}),
  'all slices once': (sparse(3, 4, TOP_K(k=3)), {'groups': False}),
  'sigmoid gates': (sparse(6, 4, TOP_K(k=3, score='sigmoid')), {}),
}


# Between them: copies, slices, shared experts, scaled gates, dense layers.
DEFAULT = {'copies, scaled gates', 'first layer dense'}


@pytest.mark.parametrize(
  'name',
  [
    pytest.param(name, marks=[] if name in DEFAULT else [pytest.mark.soak])
    for name in SAME
  ],
)
def test_it_computes_what_the_dense_one_did(name, drawn):
  config, how = SAME[name]
  if name == 'all slices once':
    # Every token has every slice, but not with the same weight.
    weights = upcycled(config, **how)
    leaf = weights['moe']['ffn']['router']['w_DE']
    weights['moe']['ffn']['router']['w_DE'] = jnp.zeros_like(leaf)
  else:
    weights = upcycled(config, **how)
  np.testing.assert_allclose(
    hidden(config, weights), hidden(DENSE, dense_weights()), atol=2e-5
  )


def test_without_renormalisation_it_does_for_a_router_of_zeros(drawn):
  config = sparse(6, 4, ROUTERS['top_k'](k=3))
  weights = upcycled(config)
  router = weights['moe']['ffn']['router']
  assert np.any(router['w_DE'] != 0)
  router['w_DE'] = jnp.zeros_like(router['w_DE'])
  want = hidden(DENSE, dense_weights())
  np.testing.assert_allclose(hidden(config, weights), want, atol=2e-5)
  plain = upcycled(config, rescale=False)
  plain['moe']['ffn']['router'] = router
  assert np.abs(hidden(config, plain) - want).max() > 0.05


def test_slices_and_copies_by_hand():
  config = sparse(4, 4, TOP_K(k=2), shared=1)
  weights = upcycled(config)['moe']['ffn']
  old = jax.tree.map(np.asarray, dense_weights()['dense']['ffn']['w'])
  a, b, c = np.split(old['w_in_ED2F'][1, 0], 3, axis=-1)
  np.testing.assert_array_equal(weights['shared']['w_in_ED2F'][1, 0], a)
  for expert, part in enumerate((b, c, b, c)):
    np.testing.assert_array_equal(
      weights['routed']['w_in_ED2F'][1, expert], part
    )
  a, b, c = np.split(old['w_out_EFD'][1, 0], 3)
  np.testing.assert_array_equal(weights['shared']['w_out_EFD'][1, 0], a)
  for expert, part in enumerate((b, c, b, c)):
    # Two gates of one half each.
    np.testing.assert_allclose(
      weights['routed']['w_out_EFD'][1, expert], 2 * part
    )
  columns = np.asarray(weights['router']['w_DE'])
  np.testing.assert_array_equal(columns[..., 0], columns[..., 1])
  assert np.any(columns[..., 1] != columns[..., 2])


def test_noise_makes_copies_differ_and_is_of_its_size(drawn):
  config = sparse(4, 12, TOP_K(k=2))
  plain, noisy = upcycled(config), upcycled(config, noise=0.1)
  for path in ('w_in_ED2F', 'w_out_EFD'):
    clean = np.asarray(plain['moe']['ffn']['routed'][path])
    added = np.asarray(noisy['moe']['ffn']['routed'][path]) - clean
    assert added.std() == pytest.approx(0.1 * clean.std(), rel=0.1)
    assert np.any(added[:, 0] != added[:, 1])
  others = lambda tree: {
    k: v for k, v in trees.leaves(tree).items() if '/routed/' not in k
  }
  for path, leaf in others(plain).items():
    np.testing.assert_array_equal(others(noisy)[path], leaf)


@pytest.mark.parametrize(
  ('recipe', 'message'),
  [
    ({'noise': float('nan')}, '--noise=nan must be 0 or more'),
    ({'noise': -0.1}, '--noise=-0.1 must be 0 or more'),
    ({'seed': -1}, '--seed=-1 must be from 0 to 4294967295'),
  ],
)
def test_a_recipe_that_is_none(recipe, message):
  with pytest.raises(errors.InputError, match=message):
    upcycle.Upcycling(**recipe)


@pytest.mark.parametrize(
  ('config', 'message'),
  [
    (DENSE, 'makes SwiGLU experts, but the new model has none'),
    (sparse(4, 5, TOP_K(k=2)), 'expert_width=5 does not divide'),
    (
      sparse(4, 4, TOP_K(k=2)),
      'leave 3 to be routed, .*=4 is no .*=6, say',
    ),
    (
      sparse(4, 4, TOP_K(k=2), shared=3),
      '=3 .* take all of the 3 slices',
    ),
    (
      dataclasses.replace(sparse(4, 12, TOP_K(k=2)), width=32),
      'model.width is 16 in the dense model and 32 in the new one',
    ),
  ],
)
def test_what_does_not_fit_gets_one_line(config, message):
  with pytest.raises(errors.InputError, match=message):
    upcycled(config)


def test_only_a_dense_model_is_upcycled():
  config = sparse(4, 12, TOP_K(k=2))
  with pytest.raises(errors.InputError, match='experts in 3 of 3 layers'):
    upcycle.upcycle(config, config, {})
