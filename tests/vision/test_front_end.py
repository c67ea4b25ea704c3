"""A decoder with a front end reads images; without images it is the decoder."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import seeing, tiny

from moejax import config
from moejax.config import loading
from moejax.core import config_tree, errors, trees
from moejax.model.config import ModelConfig
from moejax.parallel import hosts
from moejax.vision import front_end, insertion, projector


@pytest.fixture(scope='module')
def seen():
  """A model, its weights, and hidden states of a batch."""
  model = seeing.model()
  weights = tiny.weights(model)

  @jax.jit
  def run(weights, batch):
    inputs = batch.token_BL, batch.segment_BL, batch.position_BL
    return model.bind(weights)(*inputs, images=batch.images).x_BLD

  return model, weights, run


def test_features_of_an_image_take_the_places_of_its_tokens(seen):
  """Encoder and projector are called for one image at a time."""
  model, weights, _ = seen
  batch = seeing.batch()

  @jax.jit
  def embedded(weights):
    decoder = model.bind(weights)
    x_BLD = decoder.embed(batch.token_BL)
    images_X1HWC = batch.images.image_BIHWC.reshape(-1, 1, 4, 4, 3)
    # Layer -2 of two layers is the first.
    one = lambda x_1HWC: decoder.vision.projector(
      decoder.vision.encoder.features(x_1HWC, [1])
    )
    feature_X1ND = jax.lax.map(one, jnp.asarray(images_X1HWC))
    return x_BLD, decoder.vision(x_BLD, batch.images), feature_X1ND

  wanted_BLD, found_BLD, feature_X1ND = map(np.array, embedded(weights))
  for row, runs in enumerate(seeing.AT):
    for number, start in enumerate(runs):
      feature_ND = feature_X1ND[2 * row + number, 0]
      wanted_BLD[row, start : start + seeing.PATCHES] = feature_ND
  np.testing.assert_allclose(found_BLD, wanted_BLD, 1e-5, 1e-5)


def test_features_that_were_computed_before_take_the_place_of_images(seen):
  model, weights, run = seen
  batch = seeing.batch()
  images = batch.images
  feature_BIND = jax.jit(lambda w, x: model.bind(w).vision.encode(x))(
    weights, images.image_BIHWC
  )
  images = dataclasses.replace(
    images, image_BIHWC=None, feature_BIND=feature_BIND
  )
  found = run(weights, dataclasses.replace(batch, images=images))
  np.testing.assert_allclose(found, run(weights, batch), 1e-5, 1e-5)


def test_documents_do_not_see_each_others_images(seen):
  _, weights, run = seen
  batch = seeing.batch()
  other_BIHWC = np.array(batch.images.image_BIHWC)
  other_BIHWC[0, 1] += 1  # the image of the second document of row 0
  images = dataclasses.replace(batch.images, image_BIHWC=other_BIHWC)
  changed = np.asarray(run(weights, dataclasses.replace(batch, images=images)))
  same = np.asarray(run(weights, batch))
  is_second_BL = (np.arange(4)[:, None] == 0) & (batch.segment_BL == 2)
  np.testing.assert_array_equal(changed[~is_second_BL], same[~is_second_BL])
  assert not np.isclose(changed[is_second_BL], same[is_second_BL]).all(-1).any()


def test_without_images_it_is_the_decoder_to_the_bit(seen):
  model, weights, _ = seen
  blind = seeing.model(vision=front_end.TextOnly())
  own = {name: w for name, w in weights.items() if name != 'vision'}
  assert [*trees.leaves(blind.shapes)] == [*trees.leaves(own)]
  batch = seeing.batch()
  inputs = batch.token_BL, batch.segment_BL, batch.position_BL
  ran = [
    jax.jit(lambda w, m=m: m.bind(w)(*inputs).x_BLD)(w)
    for m, w in ((model, weights), (blind, own))
  ]
  np.testing.assert_array_equal(*ran)


@pytest.mark.soak
def test_the_decoder_starts_with_the_weights_of_one_without_front_end():
  key = jax.random.key(3)
  own = trees.leaves(seeing.model(vision=front_end.TextOnly()).init(key))
  whole = trees.leaves(seeing.model().init(key))
  for path, w in own.items():
    np.testing.assert_array_equal(w, whole[path])


@pytest.mark.soak
def test_a_mesh_changes_nothing(seen):
  """Rows are split over four devices, weights over two."""
  _, weights, run = seen
  mesh = tiny.mesh(4, data=2, fsdp=2)
  model = seeing.model(mesh)
  batch = hosts.put_rows(seeing.batch(), mesh)

  @jax.jit
  def on_mesh(weights, batch):
    inputs = batch.token_BL, batch.segment_BL, batch.position_BL
    return model.bind(weights)(*inputs, images=batch.images).x_BLD

  found = on_mesh(jax.device_put(weights, model.shardings), batch)
  np.testing.assert_allclose(found, run(weights, seeing.batch()), 1e-4, 1e-4)
  split = model.shardings['vision']['projector']['w_in_DF'].spec
  assert tuple(split) == ('fsdp', 'model')


def test_images_for_a_model_of_text_are_refused():
  model = seeing.model(vision=front_end.TextOnly())
  batch = seeing.batch()
  inputs = batch.token_BL, batch.segment_BL, batch.position_BL
  with pytest.raises(errors.InputError, match='reads text alone: set model'):
    jax.eval_shape(
      lambda w: model.bind(w)(*inputs, images=batch.images), model.shapes
    )


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'layers': (-4,)}, r'model\.vision\.layers: layer -4 of an encoder of 2'),
    ({'layers': ()}, r'model\.vision\.layers=\(\) reads no layer'),
    (
      {'encoder': dataclasses.replace(seeing.SIGHT.encoder, num_heads=3)},
      r'model\.vision\.encoder\.num_heads=3 must divide width=8',
    ),
  ],
)
def test_a_front_end_that_does_not_fit_is_refused(changes, message):
  vision = dataclasses.replace(seeing.SIGHT, **changes)
  with pytest.raises(errors.InputError, match=message):
    ModelConfig(vision=vision).check()


def test_multi_token_prediction_is_refused():
  with pytest.raises(errors.InputError, match=r'model\.mtp_layers=1: modules'):
    ModelConfig(vision=seeing.SIGHT, mtp_layers=1).check()


def test_a_config_is_read_back_from_the_json_of_a_workdir():
  vision = dataclasses.replace(seeing.SIGHT, projector=projector.Linear(0.5))
  run = config.Run(model=ModelConfig(vision=vision))
  text = json.dumps(config_tree.to_dict(run))
  assert loading.of_tree(json.loads(text)) == run


def test_counts_of_the_batch_fit():
  """The helper's batch has a feature for every image token."""
  images = seeing.batch().images
  insertion.check_counts(
    images.is_image_BL.astype(int), 1, images.num_B * seeing.PATCHES
  )
