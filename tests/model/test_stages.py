"""Layers with experts every so often: order, weights, caches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import references, tiny

from moejax.core import errors
from moejax.model import stages, trunk
from moejax.model.attention import cache

CONFIG = tiny.model_config(num_layers=7, first_dense=1, moe_every=3)
ROWS, L = ([5, 4], [12]), 12


def test_kinds_and_loops():
  kinds = ('dense', 'dense', 'dense', 'moe', 'dense', 'dense', 'moe')
  assert CONFIG.kinds == kinds
  assert (CONFIG.num_dense, CONFIG.num_moe) == (5, 2)
  found = [(s.kinds, s.repeats, s.start, s.first) for s in stages.of(CONFIG)]
  group = ('dense', 'dense', 'moe')
  assert found == [
    (('dense',), 1, 0, {'dense': 0}),
    (group, 2, 1, {'dense': 1, 'moe': 0}),
  ]
  usual = stages.of(tiny.model_config(num_layers=5, first_dense=2))
  assert [(s.kinds, s.repeats, s.start) for s in usual] == [
    (('dense',), 2, 0),
    (('moe',), 3, 2),
  ]


def test_a_stage_takes_layers_apart():
  stage = stages.of(CONFIG)[1]
  layers = trunk.Trunk(CONFIG, tiny.mesh(), {}).specs(stage)
  # By position in a group: numbers in the model, and among layers of a kind.
  assert [x.place.tolist() for x in layers] == [[1, 4], [2, 5], [3, 6]]
  assert [x.index.tolist() for x in layers] == [[1, 3], [2, 4], [0, 1]]
  weights = stage.weights('dense', jnp.arange(5))
  assert weights.tolist() == [[1, 2], [3, 4]]
  assert stage.weights('moe', jnp.arange(2)).tolist() == [0, 1]


@pytest.mark.parametrize(
  'remat', ['none', pytest.param('full', marks=pytest.mark.soak)]
)
def test_hidden_states_are_those_of_the_loops(remat):
  config = tiny.model_config(
    num_layers=7, first_dense=1, moe_every=3, remat=remat
  )
  model, batch = tiny.model(config), tiny.batch(ROWS)
  weights = tiny.draw(model.shapes)

  @jax.jit
  def hidden(weights):
    return model.bind(weights)(
      batch.token_BL, batch.segment_BL, batch.position_BL
    )

  out = hidden(weights)
  want_LD = references.decoder(
    config,
    weights,
    batch.token_BL[0],
    batch.segment_BL[0],
    batch.position_BL[0],
  )
  np.testing.assert_allclose(out.x_BLD[0], want_LD, rtol=1e-4, atol=1e-4)
  for leaf in jax.tree.leaves(out.record.stats):
    assert leaf.shape[0] == 2  # a row for each layer with experts


@pytest.mark.soak
def test_token_by_token_is_the_forward_pass():
  model = tiny.model(CONFIG)
  weights = tiny.weights(model)
  token_BL = np.random.default_rng(0).integers(1, 64, (2, L)).astype(np.int32)
  position_BL = jnp.tile(jnp.arange(L), (2, 1))
  one_BL = jnp.ones((2, L), jnp.int32)

  @jax.jit
  def whole(weights):
    decoder = model.bind(weights)
    return decoder.logits(decoder(token_BL, one_BL, position_BL).x_BLD)

  @jax.jit
  def step(weights, token_B1, position_B1, slots):
    valid_B1 = jnp.ones((2, 1), bool)
    return model.bind(weights).step(token_B1, position_B1, valid_B1, slots)

  slots, want_BLV = cache.empty(CONFIG, 2, L), whole(weights)
  for i in range(L):
    at = slice(i, i + 1)
    got_B1V, slots = step(weights, token_BL[:, at], position_BL[:, at], slots)
    np.testing.assert_allclose(
      got_B1V[:, 0], want_BLV[:, i], rtol=1e-4, atol=1e-4
    )


def test_groups_must_come_out_even():
  config = tiny.model_config(num_layers=6, first_dense=1, moe_every=2)
  with pytest.raises(errors.InputError, match='moe_every=2 does not divide'):
    config.check()
