"""model/remat.py: what is computed again in the backward pass."""

import re

import jax
import jax.numpy as jnp
import pytest

from moejax.core import linear
from moejax.model import remat


def products(policy, platform):
  """Number of products in the gradient of two layers, each recomputed so."""
  w = jnp.ones((8, 8), jnp.bfloat16)
  product = linear.of(platform)

  def layer(x):
    return jnp.sin(product(jnp.sin(product(x, w)), w))

  def loss(x):
    layers = remat.POLICIES[policy](layer)
    return layers(layers(x)).astype(jnp.float32).sum()

  traced = jax.jit(jax.grad(loss)).trace(jnp.ones((16, 8), jnp.bfloat16))
  text = traced.lower(lowering_platforms=(platform,)).as_text()
  return len(re.findall('stablehlo.dot_general', text))


@pytest.mark.parametrize('platform', ['cpu', 'tpu'])
def test_matmuls_are_kept_or_computed_again(platform):
  # Four forward and four backward; again, the first of each layer: the result
  # of its second one is not needed.
  assert products('none', platform) == 8
  assert products('matmuls', platform) == 8
  assert products('full', platform) == 10
