"""Encoders of Hugging Face folders give what the formulas of their papers do.

The reference is `helpers.vision.Reference`, in NumPy and float64.
"""

import jax
import numpy as np
import pytest
from helpers import vision
from safetensors.numpy import load_file, save_file

from moejax.convert import encoders, folder, load, save
from moejax.core import errors, trees
from moejax.parallel import mesh as meshes
from moejax.vision import build

# An image of another grid than that of the position embeddings, with a rest of
# pixels on both sides; and one of the grid itself.
SIZES = ((37, 51), (28, 28))


def mesh():
  return meshes.make(meshes.MeshConfig(data=1), jax.devices()[:1])


def read(path):
  plan = encoders.plan(folder.open_folder(str(path)))
  encoder = build.encoder(plan.config, mesh())
  return plan, encoder, load.weights(plan, encoder)


def run(encoder, weights, image_BHWC):
  return jax.jit(lambda w, x: encoder.bind(w)(x))(weights, image_BHWC)


def assert_close(ours, theirs):
  """To a hundred-thousandth of the standard deviation."""
  far = np.abs(np.asarray(ours, np.float64) - theirs).max() / np.std(theirs)
  assert far < 1e-5


@pytest.fixture(scope='module', params=['clip', 'siglip'])
def kind(request):
  return request.param


@pytest.fixture(scope='module')
def imported(kind, tmp_path_factory):
  config = vision.config(kind)
  tensors = vision.tensors(kind, config)
  path = tmp_path_factory.mktemp('hf') / kind
  vision.write(path, config, tensors, 'vision_model.')
  reference = vision.Reference(kind, config, tensors)
  return path, tensors, reference, read(path)


@pytest.mark.parametrize('size', SIZES)
def test_all_hidden_states_and_outputs_are_those_of_the_formulas(
  size, imported
):
  _, _, reference, (plan, encoder, weights) = imported

  @jax.jit
  def run(weights, image_BHWC):
    module = encoder.bind(weights)
    out = module(image_BHWC)
    every = [
      module.features(image_BHWC, [n], class_token=True)
      for n in range(plan.config.num_layers + 1)
    ]
    return every, out.x_BND, out.pooled_BD

  image_BHWC = vision.images(1, 2, *size, 3)
  every, x_BND, pooled_BD = run(weights, image_BHWC)
  for row, image_HWC in enumerate(image_BHWC):
    wanted = reference.hidden_states(image_HWC)
    for ours, theirs in zip(every, wanted, strict=True):
      assert_close(ours[row], theirs)
    last, pooled = reference.outputs(image_HWC)
    assert_close(x_BND[row], last)
    assert_close(pooled_BD[row], pooled)


def test_features_are_the_layer_before_the_last_without_the_class_token(
  kind, imported
):
  _, _, reference, (_, encoder, weights) = imported
  image_HWC = vision.images(2, *SIZES[0], 3)
  x_BND = jax.jit(
    lambda weights, x: encoder.bind(weights).features(x, [-2, 0])
  )(weights, image_HWC[None])
  states = reference.hidden_states(image_HWC)
  patches = int(kind == 'clip')
  assert_close(x_BND[0, :, :12], states[-2][patches:])
  assert_close(x_BND[0, :, 12:], states[0][patches:])


# Of the hub, of transformers 5, of LLaVA on the hub and of transformers, and of
# LLaVA's own code.
PREFIXES = (
  'vision_model.',
  '',
  'vision_tower.vision_model.',
  'model.vision_tower.',
  'model.vision_tower.vision_tower.vision_model.',
)


@pytest.mark.parametrize('prefix', PREFIXES)
def test_every_layout_of_names_is_read(prefix, kind, imported, tmp_path):
  _, tensors, _, (_, _, weights) = imported
  inner = vision.config(kind)
  outer = {'model_type': 'llava' if 'tower' in prefix else kind}
  others = {
    'language_model.model.embed_tokens.weight': np.zeros((3, 2), np.float32),
    'logit_scale': np.zeros(1, np.float32),
    # Old files have it.
    prefix + 'embeddings.position_ids': np.arange(17)[None],
    'text_model.encoder.layers.0.mlp.fc1.bias': np.zeros(2, np.float32),
  }
  path = tmp_path / 'out'
  config = {**outer, 'vision_config': inner}
  vision.write(path, config, tensors, prefix)
  both = load_file(path / 'model.safetensors') | others
  save_file(both, path / 'model.safetensors')
  plan, _, found = read(path)
  assert plan.ignored == sorted(others)
  assert plan.prefix == prefix
  jax.tree.map(np.testing.assert_array_equal, found, weights)


@pytest.mark.parametrize('layout', encoders.LAYOUTS)
def test_exported_is_what_was_imported(layout, kind, imported, tmp_path):
  _, tensors, _, (plan, encoder, weights) = imported
  leaves = trees.leaves(weights)
  target = tmp_path / 'out'
  written = encoders.export(plan.config, encoder.shapes, layout)
  save.write(written, lambda path: np.asarray(leaves[path]), target)
  prefix = {'hub': 'vision_model.', 'short': ''}[layout]
  found = load_file(target / 'model.safetensors')
  assert found.keys() == {prefix + name for name in tensors}
  for name, x in tensors.items():
    np.testing.assert_array_equal(found[prefix + name], x, err_msg=name)
  again = encoders.plan(folder.open_folder(str(target)))
  assert (again.config, again.layout) == (plan.config, layout)
  assert again.config.norm_eps == vision.KINDS[kind]['layer_norm_eps']


def test_a_llava_has_no_pooling_head(tmp_path):
  config = vision.config('siglip')
  tensors = vision.tensors('siglip', {**config, 'vision_use_head': False})
  outer = {'model_type': 'llava', 'vision_config': config}
  path = vision.write(tmp_path / 'in', outer, tensors, 'vision_tower.')
  plan, encoder, weights = read(path)
  assert plan.config.pooling == 'none'
  image_BHWC = vision.images(3, 1, 28, 28, 3)
  out = run(encoder, weights, image_BHWC)
  reference = vision.Reference('siglip', config, tensors)
  assert out.pooled_BD is None
  assert_close(out.x_BND[0], reference.outputs(image_BHWC[0])[0])


def test_other_activations_and_defaults_are_read(tmp_path):
  """What config.json leaves out is the default of transformers."""
  config = vision.config('clip', hidden_act='gelu')
  del config['layer_norm_eps']
  tensors = vision.tensors('clip', config)
  plan, encoder, weights = read(vision.write(tmp_path / 'in', config, tensors))
  image_BHWC = vision.images(4, 1, 28, 28, 3)
  full = {**config, 'layer_norm_eps': 1e-5}
  wanted = vision.Reference('clip', full, tensors).outputs(image_BHWC[0])
  out = run(encoder, weights, image_BHWC)
  assert_close(out.pooled_BD[0], wanted[1])
  assert (plan.config.activation, plan.config.norm_eps) == ('gelu', 1e-5)


def _without(name):
  return lambda config, tensors: tensors.pop(name)


def _with(name, shape=(2,)):
  def change(config, tensors):
    tensors[name] = np.zeros(shape, np.float32)

  return change


def _key(**keys):
  return lambda config, tensors: config.update(keys)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (_without('post_layernorm.bias'), 'lacks post_layernorm.bias'),
    (_without('head.probe'), 'lacks head.probe'),
    (_without('embeddings.patch_embedding.weight'), 'and has none'),
    (_with('x.embeddings.patch_embedding.weight'), 'and has several'),
    (_with('encoder.layers.3.mlp.fc1.bias'), 'no such model has'),
    (_with('post_layernorm.bias', (13,)), '[13], not [12]'),
    (_key(model_type='siglip2_vision_model'), "is 'siglip2_vision_model'"),
    (_key(vision_config=3), 'vision_config of config.json is 3'),
    (_key(num_channels=1), 'num_channels=1'),
    (_key(hidden_act='silu'), "hidden_act of config.json 'silu'"),
    (_key(patch_size=29), 'an image would have no patch'),
    (_key(num_attention_heads=5), 'must divide width=12'),
    (_key(hidden_size='wide'), 'width'),
    (_key(image_size=[28, 28]), 'image_size'),
  ],
)
def test_what_does_not_fit_is_one_line(change, message, tmp_path):
  config = vision.config('siglip')
  tensors = vision.tensors('siglip', config)
  change(config, tensors)
  path = vision.write(tmp_path / 'in', config, tensors)
  with pytest.raises(errors.InputError) as error:
    encoders.plan(folder.open_folder(str(path)))
  assert message in str(error.value)
  assert '\n' not in str(error.value)
  assert str(path) in str(error.value)


def test_an_encoder_of_no_family_is_not_exported():
  config = build.VisionConfig(width=12, num_heads=3, class_token=True)
  with pytest.raises(errors.InputError, match='class_token=False, not True'):
    encoders.export(config, {}, 'hub')
  with pytest.raises(errors.InputError, match='unknown layout'):
    encoders.export(config, {}, 'long')
