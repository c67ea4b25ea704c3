"""Whole LLaVA checkpoints give what transformers says of them."""

import json
import re
from unittest import mock

import numpy as np
import pytest
from helpers import llava as helper
from safetensors.numpy import load_file, save_file

from moejax.convert import folder, llava, load
from moejax.core import errors, trees
from moejax.evals import generate, sampling

HUB = {'vision_tower.': 'vision_tower.vision_model.'}
MEMORY = {
  'language_model.model.': 'model.language_model.',
  'language_model.lm_head.': 'lm_head.',
  'vision_tower.': 'model.vision_tower.',
  'multi_modal_projector.': 'model.multi_modal_projector.',
}
MEMORY_OF_HUB = MEMORY | {'vision_tower.': 'model.vision_tower.vision_model.'}

# The quick proof; the third has experts and a decoder that scales embeddings.
LOGITS = [
  'clip',
  'siglip',
  'phi3',
  pytest.param('granite', marks=pytest.mark.soak),
]


@pytest.mark.parametrize('name', LOGITS)
def test_logits_with_no_one_and_several_images(name):
  """CLIP with a Llama and a Phi-3, SigLIP with a Qwen2 and two layers."""
  assert helper.far(helper.GOLDEN / name) < 1e-4


@pytest.mark.parametrize(
  'name', ['clip', pytest.param('phi3', marks=pytest.mark.soak)]
)
def test_greedy_texts_with_the_cache(name):
  """The embeddings of a prompt are read chunk by chunk."""
  path = helper.GOLDEN / name
  want = np.load(path / 'expected.npz')
  _, model, weights = helper.read(path)
  _, x_BLD = helper.embeddings(model, weights, want)
  text_BL = np.where(want['token_BL'] == model.image_token, 0, want['token_BL'])
  new_BL = [[] for _ in text_BL]
  with mock.patch.object(generate, 'CHUNK', 8):  # rows are of 18 tokens
    for row, token in generate.stream(
      model.decoder,
      weights['decoder'],
      text_BL.tolist(),
      sampling.Sampling(),
      max_new_tokens=want['new_BL'].shape[1],
      end_ids=[],
      start=(),
      embedding_BLD=x_BLD,
    ):
      new_BL[row].append(token)
  assert new_BL == want['new_BL'].tolist()


def renamed(path, target, names):
  """A copy of a folder with other fronts of names."""
  target.mkdir()
  (target / 'config.json').write_text((path / 'config.json').read_text())
  tensors = {}
  for name, x in load_file(path / 'model.safetensors').items():
    front = next((f for f in names if name.startswith(f)), '')
    tensors[names.get(front, '') + name.removeprefix(front)] = x
  save_file(tensors, target / 'model.safetensors')
  return target


@pytest.mark.parametrize('names', [HUB, MEMORY, MEMORY_OF_HUB])
def test_every_layout_of_names_is_read(names, tmp_path):
  path = helper.GOLDEN / 'clip'
  _, _, wanted = helper.read(path)
  other = renamed(path, tmp_path / 'in', names)
  _, _, found = helper.read(other)
  for name, leaf in trees.leaves(wanted).items():
    np.testing.assert_array_equal(trees.leaves(found)[name], leaf, name)


def phi3_alone(target, **keys):
  """The language model of the checkpoint with a Phi-3 in a folder."""
  path = helper.GOLDEN / 'phi3'
  target.mkdir()
  config = json.loads((path / 'config.json').read_text())['text_config']
  (target / 'config.json').write_text(json.dumps(config | keys))
  tensors = {
    name.removeprefix('language_model.'): x
    for name, x in load_file(path / 'model.safetensors').items()
    if name.startswith('language_model.')
  }
  save_file(tensors, target / 'model.safetensors')
  return folder.open_folder(str(target))


def test_a_phi3_alone_is_read_as_a_mistral(tmp_path):
  plan = load.plan(phi3_alone(tmp_path / 'in'))
  _, model, wanted = helper.read(helper.GOLDEN / 'phi3')
  assert plan.family.model_type == 'mistral'
  assert plan.config == model.decoder.config
  found = trees.leaves(load.weights(plan, model.decoder))
  for name, leaf in trees.leaves(wanted['decoder']).items():
    np.testing.assert_array_equal(found[name], leaf, name)


@pytest.mark.parametrize(
  ('keys', 'message'),
  [
    ({'partial_rotary_factor': 0.75}, 'partial_rotary_factor=0.75'),
    (
      {'rope_parameters': {'rope_type': 'default', 'rope_theta': 1e4,
                           'partial_rotary_factor': 0.5}},
      'partial_rotary_factor=0.5',
    ),
    ({'intermediate_size': 25}, 'tensors of other shapes'),
    ({'num_key_value_heads': 1}, 'tensors of other shapes'),
  ],
)  # fmt: skip
def test_a_phi3_that_does_not_fit_is_one_line(keys, message, tmp_path):
  with pytest.raises(errors.InputError, match=message) as e:
    load.plan(phi3_alone(tmp_path / 'in', **keys))
  assert '\n' not in str(e.value)


def test_what_a_phi3_leaves_out_is_the_default_of_its_class(tmp_path):
  of_file = phi3_alone(tmp_path / 'in')
  for key in ('rms_norm_eps', 'original_max_position_embeddings'):
    del of_file.config[key]
  del of_file.config['rope_parameters']['original_max_position_embeddings']
  config = load.plan(of_file).config
  assert config.norm_eps == 1e-5  # a Mistral's is 1e-6
  assert config.rope.scaling.length == 4096


def test_earlier_names_of_the_stretched_positions(tmp_path):
  of_file = phi3_alone(tmp_path / 'in')
  rope = dict(of_file.config['rope_parameters'])
  older = {
    'type': 'su',
    **{k: rope[k] for k in ('short_factor', 'long_factor')},
  }
  del of_file.config['rope_parameters']
  of_file.config.update({'rope_scaling': older, 'rope_theta': 1e4})
  wanted = load.plan(phi3_alone(tmp_path / 'same')).config
  assert load.plan(of_file).config.rope == wanted.rope


def change(path, target, edit, drop=(), add=()):
  """A copy of a folder with another config and other tensors."""
  target.mkdir()
  config = json.loads((path / 'config.json').read_text())
  edit(config)
  (target / 'config.json').write_text(json.dumps(config))
  tensors = load_file(path / 'model.safetensors')
  for name in drop:
    del tensors[name]
  tensors |= {name: np.zeros((2,), np.float32) for name in add}
  save_file(tensors, target / 'model.safetensors')
  return target


def _set(**keys):
  return lambda config: config.update(keys)


def _inner(part, **keys):
  return lambda config: config[part].update(keys)


BIAS = 'multi_modal_projector.linear_1.bias'
BAD = (
  (_set(model_type='llava_next'), (), (), "is a 'llava_next': of models of im"),
  (_set(mm_vision_tower='openai/clip'), (), (), "format of LLaVA's own code"),
  (_set(multimodal_projector_bias=False), (), (), 'projector_bias=false'),
  (_set(projector_hidden_act='silu'), (), (), "config.json 'silu'"),
  (_set(vision_feature_select_strategy='cls'), (), (), "config.json 'cls'"),
  (_set(vision_feature_layer=[]), (), (), 'vision_feature_layer=[] of'),
  (_set(vision_feature_layer=9), (), (), 'layer 9 of an encoder of 3 layers'),
  (_set(vision_feature_layer=[1, 2]), (), (), '[32, 24], not [32, 48]'),
  (_set(image_token_index='<image>'), (), (), "image_token_index='<image>'"),
  (_set(text_config=3), (), (), 'text_config of config.json is 3'),
  (_set(vision_config=[]), (), (), 'vision_config of config.json is []'),
  (_inner('vision_config', model_type=[]), (), (), 'config.json is []; known'),
  (_inner('text_config', model_type='gemma3'), (), (), "'gemma3'"),
  (_inner('text_config', num_hidden_layers=3), (), (), 'the language model of'),
  (_inner('vision_config', hidden_size=48), (), (), 'tensors of other shapes'),
  (_set(), (BIAS,), (), f'lacks {BIAS}'),
  (_set(), (), ('multi_modal_projector.linear_3.bias',), 'no such model has'),
  (_set(), (), ('image_newline',), 'that no LLaVA has: image_newline'),
  (
    _set(),
    [f'multi_modal_projector.linear_{n}.{k}' for n in (1, 2)
     for k in ('weight', 'bias')],
    (),
    'has no projector',
  ),
)  # fmt: skip


@pytest.mark.parametrize(('edit', 'drop', 'add', 'message'), BAD)
def test_what_does_not_fit_is_one_line(edit, drop, add, message, tmp_path):
  path = change(helper.GOLDEN / 'clip', tmp_path / 'in', edit, drop, add)
  with pytest.raises(errors.InputError, match=re.escape(message)) as e:
    llava.plan(folder.open_folder(str(path)))
  assert '\n' not in str(e.value)


def test_what_config_json_leaves_out_is_the_default(tmp_path):
  """Of the encoder LLaVA-1.5's, of the language model Llama's."""

  def edit(config):
    config.clear()
    config.update({'model_type': 'llava', 'text_config': {'vocab_size': 60}})

  path = change(helper.GOLDEN / 'clip', tmp_path / 'in', edit)
  with pytest.raises(errors.InputError) as e:
    llava.plan(folder.open_folder(str(path)))
  # 24 layers of width 1,024 are wanted, and 3 are there.
  assert 'encoder.layers.*' in str(e.value)


def test_tied_embeddings_are_named_inside_or_outside(tmp_path):
  def edit(config):
    config['text_config']['tie_word_embeddings'] = False
    assert config['tie_word_embeddings']

  path = change(helper.GOLDEN / 'siglip', tmp_path / 'in', edit)
  plan = llava.plan(folder.open_folder(str(path)))
  assert plan.decoder.config.tie_embeddings


def test_the_command_convert_names_the_command_for_it():
  with pytest.raises(errors.InputError, match='moejax llava reads it'):
    load.plan(folder.open_folder(str(helper.GOLDEN / 'clip')))
