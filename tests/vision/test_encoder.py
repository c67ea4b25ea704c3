"""An encoder keeps its outputs on a mesh, its types, and its promises."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core import errors, trees
from moejax.parallel import mesh as meshes
from moejax.vision import build
from moejax.vision.config import VisionConfig

CONFIG = VisionConfig(
  image_size=16,
  patch_size=4,
  width=16,
  num_layers=2,
  num_heads=4,
  hidden_width=24,
  class_token=True,
  norm_first=True,
)
IMAGE_BHWC = np.random.default_rng(0).normal(size=(8, 19, 12, 3))


def encoder(devices=1, config=CONFIG, **sizes):
  mesh = meshes.make(meshes.MeshConfig(**sizes), jax.devices()[:devices])
  return build.encoder(config, mesh)


@pytest.fixture(scope='module')
def weights():
  return encoder().init(jax.random.key(0))


def outputs_and_gradients(made, weights):
  def loss(weights, image_BHWC):
    out = made.bind(weights)(image_BHWC)
    return jnp.sum(jnp.sin(out.pooled_BD)) + jnp.sum(jnp.cos(out.x_BND)), out

  run = jax.jit(jax.value_and_grad(loss, has_aux=True))
  (_, out), gradients = run(weights, IMAGE_BHWC.astype(np.float32))
  return out, gradients


@pytest.fixture(scope='module')
def on_one_device(weights):
  return outputs_and_gradients(encoder(), weights)


@pytest.mark.soak
def test_a_mesh_changes_neither_outputs_nor_gradients(weights, on_one_device):
  sizes = {'data': 2, 'fsdp': 2, 'model': 2}
  many = encoder(8, **sizes)
  split = jax.tree.map(jax.device_put, weights, many.shardings)
  matrix = split['layers']['ffn']['w_in_DF']
  assert matrix.sharding.shard_shape(matrix.shape) == (2, 8, 12)
  results = zip(
    trees.leaves(on_one_device).items(),
    trees.leaves(outputs_and_gradients(many, split)).items(),
    strict=True,
  )
  for (path, wanted), (_, found) in results:
    np.testing.assert_allclose(found, wanted, 1e-4, 2e-5, err_msg=path)


def test_every_weight_has_a_gradient_and_says_whether_it_decays(on_one_device):
  made = encoder()
  _, gradients = on_one_device
  for path, gradient in trees.leaves(gradients).items():
    # A bias of the keys adds the same to all scores of a query.
    flat = path == 'layers/attention/b_k_HK'
    assert flat or np.abs(gradient).max() > 1e-6, path
    assert made.decays[path] == (path.split('/')[-1][:2] == 'w_'), path


def test_bfloat16_is_near_float32(weights, on_one_device):
  half = encoder(config=dataclasses.replace(CONFIG, dtype='bfloat16'))
  image_BHWC = IMAGE_BHWC.astype(np.float32)
  out = jax.jit(lambda w, x: half.bind(w)(x))(weights, image_BHWC)
  wanted, _ = on_one_device
  assert out.x_BND.dtype == out.pooled_BD.dtype == jnp.bfloat16
  far = out.x_BND.astype(float) - wanted.x_BND
  # Bfloat16 rounds by 1 / 512 on average, some twenty times on the way.
  assert 1e-4 < jnp.std(far) / jnp.std(wanted.x_BND) < 0.05


def test_layers_behind_the_features_are_not_computed(weights):
  """Neither their weights nor the last norm reach the features."""
  made = encoder()

  def features(weights, layers):
    found = made.bind(weights).features(IMAGE_BHWC[:1], layers)
    return jnp.sum(found**2)

  gradients = jax.jit(jax.grad(features), static_argnums=1)(weights, (1,))
  used = gradients['layers']['ffn']['w_in_DF']
  assert np.abs(used[0]).max() > 0
  assert np.abs(used[1]).max() == 0
  assert np.abs(gradients['norm']['scale_D']).max() == 0


def test_what_it_cannot_read_is_one_line(weights):
  module = encoder().bind(weights)
  for shape in ((1, 3, 16, 3), (1, 16, 16, 4)):
    with pytest.raises(errors.InputError, match='at least one patch'):
      module(jnp.zeros(shape))
  for layer in (3, -4):
    with pytest.raises(errors.InputError, match='give -3 to 2'):
      module.features(jnp.zeros((1, 16, 16, 3)), (layer,))
  with pytest.raises(errors.InputError, match='needs class_token=True'):
    VisionConfig(pooling='class').check()
  with pytest.raises(errors.InputError, match="did you mean 'quick_gelu'"):
    VisionConfig(activation='quickgelu').check()
