"""Workdirs of models that read images: imported, joined, and begun from."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest
from helpers import hf
from helpers import llava as helper
from helpers import vision as vision_helper

from moejax import config as configs
from moejax.cli import convert
from moejax.convert import encoders, folder, load, whole
from moejax.core import errors, trees
from moejax.evals import image_engine
from moejax.model import build
from moejax.parallel.group import SINGLE
from moejax.run import initial_weights, restore, trained
from moejax.vision import build as vision_build
from moejax.vision.inputs import RowImages

QUIET = lambda line: None


@pytest.fixture(scope='module')
def imported(tmp_path_factory):
  """A folder of a LLaVA that speaks, and the workdir that it is imported to."""
  path = tmp_path_factory.mktemp('llava')
  source = helper.speaking(path / 'hf')
  convert.main(['import', str(source), f'--workdir={path / "run"}'])
  return source, path / 'run'


def row_images(want, image_token):
  """The images of the rows of expected.npz."""
  count_B, most = want['count_B'], want['count_B'].max()
  shape = (len(count_B), most, *want['image_NHWC'].shape[1:])
  image_BIHWC = np.zeros(shape, np.float32)
  image_BIHWC[np.arange(most) < count_B[:, None]] = want['image_NHWC']
  is_image_BL = want['token_BL'] == image_token
  return RowImages(image_BIHWC, None, count_B.astype(np.int32), is_image_BL)


def test_logits_of_an_imported_llava_are_those_of_transformers(imported):
  """By the config and the weights of the workdir, as a run reads images."""
  _, workdir = imported
  want = np.load(helper.GOLDEN / 'clip' / 'expected.npz')
  opened = trained.open_trained(str(workdir))
  weights, step = opened.weights('newest', QUIET)
  assert step == 0
  token_BL = want['token_BL']
  one_BL = np.ones_like(token_BL)
  position_BL = np.broadcast_to(np.arange(token_BL.shape[1]), token_BL.shape)

  @jax.jit
  def logits(weights, images):
    decoder = opened.model.bind(weights)
    out = decoder(token_BL, one_BL, position_BL, images=images)
    return decoder.logits(out.x_BLD)

  found = logits(weights, row_images(want, 59))
  far = np.abs(found - want['logits_BLV']).max()
  assert far / want['logits_BLV'].std() < 1e-4


def test_an_imported_workdir_keeps_how_images_are_prepared(imported):
  source, workdir = imported
  run = restore.run_of(str(workdir))
  engine = image_engine.open_folder(str(source), helper.mesh())
  own = {
    field.name: getattr(run.data.images.prepare, field.name)
    for field in dataclasses.fields(engine.sight.steps)
  }
  assert own == dataclasses.asdict(engine.sight.steps)
  assert run.data.images.tokens == engine.sight.model.num_features
  run.model.vision.check_images(run.data.images.tokens, run.data.images.size)
  assert run.data.vocab.encode_prompt('w5 <image>') == [5, 59]


def variant(path, name, **keys):
  """A checkpoint of transformers with other keys in its config.json."""
  path = helper.speaking(path, name)
  config = json.loads((path / 'config.json').read_text()) | keys
  (path / 'config.json').write_text(json.dumps(config))
  return folder.open_folder(str(path))


@pytest.mark.parametrize(
  'name', [pytest.param('siglip', marks=pytest.mark.soak), 'granite']
)
def test_what_the_decoder_reads_is_as_in_the_three_parts(name, tmp_path):
  """Two layers of an encoder; a decoder that scales features as embeddings."""
  source = variant(tmp_path / 'hf', name, vision_feature_select_strategy='full')
  parts, three, by_part = helper.read(source.path)
  plan = whole.plan(source)
  model = build.build(plan.config, helper.mesh())
  weights = load.weights(plan, model)
  rng = np.random.default_rng(0)
  image_NHWC = rng.normal(size=(3, 16, 16, 3)).astype(np.float32)
  each = parts.num_features
  token_BL = np.full((2, 3 * each), 7, np.int32)
  token_BL[0, 1 : 1 + 2 * each] = token_BL[1, -each:] = parts.image_token
  want = {'image_NHWC': image_NHWC, 'count_B': np.array([2, 1])}
  want['token_BL'] = token_BL
  _, wanted_BLD = helper.embeddings(three, by_part, want)

  @jax.jit
  def embedded(weights, images):
    decoder = model.bind(weights)
    embedded = decoder.embed(token_BL)
    return decoder._with_images(embedded, images, None, None)[0]

  found_BLD = embedded(weights, row_images(want, parts.image_token))
  np.testing.assert_allclose(found_BLD, wanted_BLD, 1e-5, 1e-5)
  assert np.abs(found_BLD - found_BLD[0, 0]).max() > 1  # features are there


@pytest.mark.parametrize(
  ('name', 'strategy', 'message'),
  [
    ('clip', 'full', 'strategy=full of config.json keeps the class token'),
    ('siglip', 'default', 'strategy=default of config.json leaves out a patch'),
  ],
)
def test_tokens_that_the_front_end_lacks_are_one_line(
  name, strategy, message, tmp_path
):
  source = variant(
    tmp_path / 'hf', name, vision_feature_select_strategy=strategy
  )
  with pytest.raises(errors.InputError, match=re.escape(message)) as e:
    whole.plan(source)
  assert '\n' not in str(e.value)


def test_bad_folders_are_one_line_before_a_workdir_is_made(imported, tmp_path):
  source, workdir = imported
  flags = [f'--workdir={tmp_path / "run"}']
  other = variant(tmp_path / 'other', 'clip', image_token_index=58).path
  with pytest.raises(errors.InputError, match='tokenizer of another model'):
    convert.main(['import', str(other), *flags])
  bare = helper.speaking(tmp_path / 'bare')
  (bare / 'preprocessor_config.json').unlink()
  with pytest.raises(errors.InputError, match='nothing says how images are'):
    convert.main(['import', str(bare), *flags])
  assert not (tmp_path / 'run').exists()


def test_a_run_begins_with_a_llava_of_a_folder_or_a_workdir(imported):
  """The folder and the workdir give one config and one set of weights."""
  source, workdir = imported
  begun = []
  for place in map(str, imported):
    run = configs.load(f'configs/hf/chat.py:{place}')
    assert run.data.images == restore.run_of(str(workdir)).data.images
    model = build.build(run.model, helper.mesh())
    begun.append(_made(run, model))
  first, second = map(trees.leaves, begun)
  assert 'vision/projector/w_in_DF' in first
  for path, w in first.items():
    np.testing.assert_array_equal(w, second[path], path)


def _made(run, model):
  """What `initial_weights` gives a run, without its screen and processes."""

  class Context:
    pass

  context, resources = Context(), Context()
  context.run, context.model = run, model
  context.processes, resources.screen = Context(), Context()
  context.processes.group = SINGLE
  resources.screen.line = QUIET
  return initial_weights.make(context, resources)


def test_an_encoder_of_another_size_is_named_by_its_keys(imported):
  _, workdir = imported
  overrides = [('model.vision.encoder.width', '48')]
  run = configs.load(f'configs/hf/chat.py:{workdir}', overrides)
  model = build.build(run.model, helper.mesh())
  with pytest.raises(
    errors.InputError, match=r'has model\.vision\.encoder\.width=24, not 48'
  ):
    _made(run, model)


@pytest.fixture(scope='module')
def parts(tmp_path_factory):
  """An encoder with a pooling of its own, and the workdir of a decoder."""
  path = tmp_path_factory.mktemp('parts')
  config = vision_helper.config('siglip')
  tensors = vision_helper.tensors('siglip', config)
  vision_helper.write(path / 'siglip', config, tensors)
  steps = {
    'image_processor_type': 'SiglipImageProcessor',
    'size': {'height': 28, 'width': 28},
  }
  (path / 'siglip' / 'preprocessor_config.json').write_text(json.dumps(steps))
  hf.write_olmoe(path / 'olmoe')
  helper.give_words(path / 'olmoe', 258, '<|image|>')
  convert.main(['import', str(path / 'olmoe'), f'--workdir={path / "text"}'])
  return path


def joined(parts, to, *flags, decoder='text'):
  convert.main([
    'join', f'--encoder={parts / "siglip"}', f'--decoder={parts / decoder}',
    f'--to={to}', '--config.data.images.token=<|image|>', *flags,
  ])  # fmt: skip


def weights_of(workdir):
  opened = trained.open_trained(str(workdir))
  return trees.leaves(opened.weights('newest', QUIET)[0]), opened


def test_joined_parts_keep_their_weights_and_the_projector_is_drawn(
  parts, tmp_path
):
  joined(parts, tmp_path / 'run')
  found, opened = weights_of(tmp_path / 'run')
  text, _ = weights_of(parts / 'text')
  for path, w in text.items():
    np.testing.assert_array_equal(found[path], w, path)
  plan = encoders.plan(folder.open_folder(str(parts / 'siglip')))
  encoder = vision_build.encoder(plan.config, helper.mesh())
  own = trees.leaves(load.weights(plan, encoder))
  named = {p for p in found if p.startswith(whole.ENCODER)}
  assert {*own} - {p.removeprefix(whole.ENCODER) for p in named} == {
    path for path in own if path.startswith('pooling/')
  }
  for path in named:
    np.testing.assert_array_equal(
      found[path], own[path.removeprefix(whole.ENCODER)], path
    )
  drawn = found['vision/projector/w_in_DF']
  assert drawn.shape == (12, opened.model.config.width)
  assert 0.015 < drawn.std() < 0.025  # MLP.init_std is 0.02
  images = opened.run.data.images
  # 28 pixels in patches of 7.
  assert (images.tokens, images.token) == (16, '<|image|>')
  assert images.prepare.size == (28, 28)


def test_a_folder_is_joined_as_its_workdir_is(parts, tmp_path):
  flags = ['--config.model.vision.projector.name=linear']
  joined(parts, tmp_path / 'a', *flags)
  joined(parts, tmp_path / 'b', *flags, decoder='olmoe')
  a, b = weights_of(tmp_path / 'a')[0], weights_of(tmp_path / 'b')[0]
  assert a.keys() == b.keys()
  assert 'vision/projector/w_FD' in a
  for path, w in a.items():
    np.testing.assert_array_equal(b[path], w, path)


@pytest.mark.parametrize(
  ('flags', 'decoder', 'message'),
  [
    (['--config.model.width=8'], 'text', 'is not of the projector or of the'),
    (['--config.model.vision.layers=-9'], 'text', 'layer -9 of an encoder of'),
    (['--config.data.images.prepare.size=28'], 'text', 'keeps the ratio'),
    (['--config.data.images.prepare.size=6,6'], 'text', 'less than a patch'),
    (['--step=3'], 'olmoe', '--step=3 is for a workdir'),
    ([], 'siglip', 'siglip_vision_model'),
  ],
)
def test_parts_that_do_not_fit_are_one_line(
  flags, decoder, message, parts, tmp_path
):
  with pytest.raises(errors.InputError, match=re.escape(message)) as e:
    joined(parts, tmp_path / 'run', *flags, decoder=decoder)
  assert '\n' not in str(e.value)
  assert not (tmp_path / 'run').exists()


def test_a_decoder_that_reads_images_already_is_one_line(
  imported, parts, tmp_path
):
  for decoder in imported:
    with pytest.raises(errors.InputError, match='reads images already'):
      joined(parts, tmp_path / 'run', decoder=decoder)
