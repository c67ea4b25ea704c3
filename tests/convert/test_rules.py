"""Patterns, by hand; configs, as they go out and come back."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from helpers import hf, tiny

from moejax.convert import axes, configs, folder, load, rules, save
from moejax.convert.families import FAMILIES, FORMS
from moejax.core import errors
from moejax.moe.balance import BALANCE
from moejax.moe.scorers import SCORERS


def test_patterns_by_hand():
  sizes = {'H': 4, 'K': 2, 'D': 6}
  x = np.arange(48).reshape(8, 6)
  ours = axes.unpack(x, '(H K) D', 'D H K', sizes)
  assert ours.shape == (6, 4, 2)
  assert all(
    ours[d, h, k] == x[2 * h + k, d] for d, h, k in np.ndindex(6, 4, 2)
  )
  assert np.shares_memory(ours, x)
  np.testing.assert_array_equal(axes.pack(ours, 'D H K', '(H K) D'), x)
  # Gate and up in turn, as in gpt-oss.
  x = np.arange(6).reshape(1, 6)
  ours = axes.unpack(x, 'D (F two)', 'D two F', {'D': 1, 'F': 3, 'two': 2})
  assert ours.tolist() == [[[0, 2, 4], [1, 3, 5]]]
  assert axes.shape('1 D', {'D': 3}) == (1, 3)
  assert axes.unpack(np.ones((1, 3)), '1 D', 'D', {'D': 3}).shape == (3,)
  assert axes.pack(np.ones(3), 'D', '1 D').shape == (1, 3)


def test_a_rule_by_hand():
  config = tiny.model_config()  # d m m, 4 experts of width 6, D = 16
  shapes = load.shapes(config)
  rule = rules.Rule(
    'l{layer}.e{E}.up', 'F D', 'moe/ffn/routed/w_in_ED2F', 'E D 1 F'
  )
  found = rules.expand([rule], config, shapes)
  assert len(found) == 2 * 4
  (one,) = (tensor for tensor in found if tensor.name == 'l2.e3.up')
  assert one.shape == (6, 16)
  assert one.index == (1, 3, None, 1, None)
  assert one.free == 'D F'
  assert rule.matches('l12.e0.up')
  assert not rule.matches('l12.ex.up')
  dense = rules.Rule('l{layer}.up', 'F D', 'dense/ffn/w/w_in_ED2F', '0 D 1 F')
  (one,) = rules.expand([dense], config, shapes)
  assert (one.name, one.index) == ('l0.up', (0, 0, None, 1, None))


# Other names of a family, whose first name is what is written.
ALIASES = {'kimi_k2': 'deepseek_v3'}


@pytest.mark.parametrize('name', FAMILIES)
def test_every_family_has_a_checkpoint_and_a_form(name):
  first = ALIASES.get(name, name)
  assert first in hf.FAMILIES
  assert FORMS[first] is FAMILIES[name]
  assert FAMILIES[name].model_type == first


@pytest.mark.parametrize('name', ALIASES)
def test_another_name_of_a_family_is_read_as_that_family(name, tmp_path):
  source = hf.GOLDEN / ALIASES[name]
  want = load.plan(folder.open_folder(str(source)))
  text = (source / 'config.json').read_text()
  theirs = json.loads(text) | {'model_type': name}
  (tmp_path / 'config.json').write_text(json.dumps(theirs))
  shutil.copy(source / folder.SINGLE, tmp_path)
  found = load.plan(folder.open_folder(str(tmp_path)))
  assert (found.family, found.config) == (want.family, want.config)
  assert found.tensors == want.tensors


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'moe.router.score': 'sigmoid'}, 'moe.router.score'),
    ({'qk_norm': 'none'}, 'qk_norm'),
    ({'windows': (4,)}, 'windows'),
    ({'head_dim': 4}, 'head_dim'),
    ({'sinks': True}, 'sinks'),
  ],
)
def test_what_a_family_cannot_hold_is_named(changes, message):
  plan = load.plan(folder.open_folder(str(hf.GOLDEN / 'olmoe')))
  model = plan.config
  for key, value in changes.items():
    if key.startswith('moe.router.'):
      field = key.removeprefix('moe.router.')
      router = dataclasses.replace(model.moe.router, **{field: value})
      moe = dataclasses.replace(model.moe, router=router)
      model = dataclasses.replace(model, moe=moe)
    else:
      model = dataclasses.replace(model, **{key: value})
  with pytest.raises(errors.InputError, match=f'cannot hold.*{message}'):
    save.plan(model, load.shapes(model), 'olmoe')


def test_what_training_alone_needs_is_no_hindrance():
  model = load.plan(folder.open_folder(str(hf.GOLDEN / 'olmoe'))).config
  scorer = SCORERS['linear'](start='zeros')
  moe = dataclasses.replace(model.moe, balance=(), scorer=scorer)
  model = dataclasses.replace(model, moe=moe, dtype='bfloat16', init_std=0.1)
  assert save.plan(model, load.shapes(model)).family is FORMS['olmoe']


@pytest.mark.parametrize('family', hf.FAMILIES)
def test_by_default_a_model_is_written_as_what_it_was(family):
  """But for DeepSeekMoE, of which transformers has no class."""
  plan = load.plan(folder.open_folder(str(hf.GOLDEN / family)))
  was, shapes = plan.folder.config['model_type'], load.shapes(plan.config)
  found = save.plan(plan.config, shapes, was=was).family.model_type
  assert found == {'deepseek': 'qwen2_moe'}.get(family, family)


def test_a_bias_that_the_format_lacks_is_named():
  model = load.plan(folder.open_folder(str(hf.GOLDEN / 'olmoe'))).config
  moe = dataclasses.replace(model.moe, balance=(BALANCE['loss_free'](),))
  model = dataclasses.replace(model, moe=moe)
  with pytest.raises(errors.InputError, match='loss_free/selection_bias_E'):
    save.plan(model, load.shapes(model))


@pytest.mark.parametrize(
  ('of', 'changes', 'message'),
  [
    (
      'qwen2_moe',
      {'decoder_sparse_step': 1, 'mlp_only_layers': [1]},
      'all layers but',
    ),
    (
      'qwen2_moe',
      {'shared_expert_intermediate_size': 0},
      'shared_expert_intermediate_size=0; it must be 1 or more',
    ),
    (
      'qwen3',
      {'use_sliding_window': True, 'layer_types': ['sliding_attention'] * 2},
      'sliding_window=None; it must be 1',
    ),
    ('qwen3', {'layer_types': ['full_attention']}, 'has 1 layer_types, for'),
    (
      'gpt_oss',
      {'layer_types': ['full_attention', 'chunked_attention']},
      'chunked_attention among them',
    ),
    (
      'qwen3_moe',
      {'num_experts': 8, 'num_local_experts': 4},
      'num_local_experts=4 and num_experts=8, which are one key by two names',
    ),
    (
      'llama',
      {
        'partial_rotary_factor': 0.5,
        'rope_scaling': {'type': 'linear', 'factor': 2.0},
      },
      'do not go together in models of this type',
    ),
    (
      'llama',
      {
        'rope_scaling': {
          'type': 'longrope',
          'short_factor': [1.0],
          'long_factor': [1.0] * 4,
        }
      },
      'rope.scaling.short has 1 numbers, but 4 pairs',
    ),
    ('deepseek_v2', {'topk_method': 'noaux_tc'}, 'topk_method'),
    ('deepseek_v3', {'kv_lora_rank': None}, 'kv_lora_rank'),
    ('mixtral', {'rope_scaling': {'type': 'yarn'}}, 'rope_scaling.factor'),
  ],
)
def test_what_moejax_has_not_is_named(of, changes, message):
  theirs = folder.open_folder(str(hf.GOLDEN / of)).config | changes
  with pytest.raises(errors.InputError, match=message):
    configs.read(FAMILIES[of], theirs)


def test_configs_of_transformers_4_and_of_releases():
  theirs = folder.open_folder(str(hf.GOLDEN / 'gpt_oss')).config
  theirs = dict(theirs)
  theirs['rope_scaling'] = dict(theirs.pop('rope_parameters'))
  theirs['rope_theta'] = theirs['rope_scaling'].pop('rope_theta')
  new = folder.open_folder(str(hf.GOLDEN / 'gpt_oss')).config
  assert configs.read(FAMILIES['gpt_oss'], theirs) == configs.read(
    FAMILIES['gpt_oss'], new
  )
  # By layer: 5 and all, in turn.
  assert configs.read(FAMILIES['gpt_oss'], new).windows == (5, 0)


def test_of_two_forms_that_hold_a_model_it_goes_out_as_it_came_in():
  """A Seed-OSS with biases everywhere is a Llama, too."""
  plan = load.plan(folder.open_folder(str(hf.GOLDEN / 'seed_oss')))
  shapes = load.shapes(plan.config)
  forms = [save.plan(plan.config, shapes, was=w) for w in ('', 'seed_oss', '?')]
  names = [form.family.model_type for form in forms]
  assert names == ['llama', 'seed_oss', 'llama']
