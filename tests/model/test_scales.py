"""Constants of a model are the same as weights that are multiplied by them."""

import dataclasses
import math

import jax
import numpy as np
from helpers import tiny

from moejax.core import trees
from moejax.model.scales import Scales

CONFIG = tiny.model_config(num_layers=2, first_dense=1)
SCALES = Scales(embedding=3.0, residual=0.5, scores=0.3, logits=4.0)
FACTORS = {
  'embed_VD': 3.0,
  'head_DV': 1 / 4,
  'w_q_DHK': 0.3 * math.sqrt(CONFIG.head_dim),
  'w_o_HKD': 0.5,
  'w_out_EFD': 0.5,
}


def logits(config, weights):
  model, batch = tiny.model(config), tiny.batch([[12]])

  @jax.jit
  def run(weights):
    decoder = model.bind(weights)
    out = decoder(batch.token_BL, batch.segment_BL, batch.position_BL)
    return decoder.logits(out.x_BLD)

  return np.asarray(run(weights))


def test_constants_are_factors_of_weights():
  weights = tiny.weights(tiny.model(CONFIG))
  scaled = dataclasses.replace(CONFIG, scales=SCALES)
  by_hand = trees.map_paths(
    lambda path, x: x * FACTORS.get(path.split('/')[-1], 1.0), weights
  )
  got, want = logits(scaled, weights), logits(CONFIG, by_hand)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
  # And they are not the same without.
  assert np.abs(logits(CONFIG, weights) - want).max() > 0.1 * want.std()
