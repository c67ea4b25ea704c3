"""Keys that a config.json leaves out, or has null, mean what they do elsewhere.

What transformers makes of them is in tests/golden/hf_defaults, which
tests/golden/make_hf_defaults.py makes; `make test-hf` asks transformers again.
"""

import json
import os
import pathlib
import subprocess

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import hf

from moejax.convert import configs
from moejax.convert.families import FAMILIES
from moejax.core import config_tree, errors

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'hf_defaults'
SCRIPT = GOLDEN.parent / 'make_hf_defaults.py'
THEIRS = {
  path.stem: json.loads(path.read_text())
  for path in sorted(GOLDEN.glob('*.json'))
  if path.stem not in ('rotary', 'windows')
}
ROTARY = json.loads((GOLDEN / 'rotary.json').read_text())
WINDOWS = json.loads((GOLDEN / 'windows.json').read_text())
OF_WINDOWS = {
  'layer_types',
  'max_window_layers',
  'sliding_window',
  'use_sliding_window',
}
# Of the code that came with the weights, or an attribute that only models look
# for: it is no field of the class.
OF_RELEASES = {
  'head_dim',
  'mlp_bias',
  'moe_layer_freq',
  'num_nextn_predict_layers',
  'scoring_func',
  'topk_method',
}
OF_ROTARY = {
  'original_max_position_embeddings',
  'partial_rotary_factor',
  'rope_parameters',
  'rope_scaling',
  'rotary_dim',
}
# The class overwrites it.
WITHOUT_EFFECT = {'deepseek_v2': {'head_dim'}}
# Null is a value of its own: what we have for it.
OWN = {
  'head_dim': ('head_dim', 8),
  'clip_qkv': ('qkv_bias', False),
  'q_lora_rank': ('heads.q_rank', 0),
  'sliding_window': ('windows', []),
}
# Refused there by the type of the key, and read here as what else fits.
READ_ALL_THE_SAME = {'head_dim'}


def config_of(family):
  return json.loads((hf.GOLDEN / family / 'config.json').read_text())


def outcome(family, theirs):
  """Our config, or None if it is refused."""
  try:
    return configs.read(FAMILIES[family], theirs)
  except errors.InputError:
    return None


def names_of(family):
  parts = FAMILIES[family].keys
  return {name for part in parts for name in part.names}


def without(theirs, family, name):
  """A config that lacks a key under all of its names."""
  others = FAMILIES[family].aliases.items()
  gone = {name, *(alias for alias, first in others if first == name)}
  return {key: value for key, value in theirs.items() if key not in gone}


def each(what):
  return [
    pytest.param(family, name, value, id=f'{family}-{name}')
    for family, theirs in THEIRS.items()
    for name, value in sorted(theirs[what].items())
    if name in names_of(family)
  ]


@pytest.mark.parametrize('family', THEIRS)
def test_our_defaults_are_those_of_the_class(family):
  theirs, ours = THEIRS[family]['default'], FAMILIES[family].defaults
  names = names_of(family)
  assert names <= ours.keys()
  # Nothing that the class has is passed over.
  assert theirs.keys() - names <= WITHOUT_EFFECT.get(family, set())
  for name in names - OF_ROTARY:
    if name in theirs:
      assert (name, ours[name]) == (name, theirs[name])
    else:
      assert name in OF_RELEASES


def test_every_family_that_transformers_has_is_asked():
  assert set(FAMILIES) - set(THEIRS) == {'deepseek', 'kimi_k2'}


@pytest.mark.parametrize(('family', 'name', 'value'), each('left_out'))
def test_a_key_left_out_is_what_the_class_has(family, name, value):
  lacks = without(config_of(family), family, name)
  assert outcome(family, lacks) == outcome(family, {**lacks, name: value})


@pytest.mark.parametrize(('family', 'name', 'value'), each('null'))
def test_null_is_what_the_class_makes_of_it(family, name, value):
  lacks = without(config_of(family), family, name)
  found = outcome(family, {**lacks, name: None})
  assert found is not None
  if name in OWN:
    path, want = OWN[name]
    assert config_tree.flatten(found)[path] == want
  else:
    assert found == outcome(family, {**lacks, name: value})


@pytest.mark.parametrize('family', THEIRS)
def test_null_that_the_class_refuses_is_refused(family):
  names = set(THEIRS[family]['refused']) - READ_ALL_THE_SAME
  assert len(names) > 10
  for name in names:
    lacks = without(config_of(family), family, name)
    assert (name, outcome(family, {**lacks, name: None})) == (name, None)


@pytest.mark.parametrize('family', THEIRS)
def test_other_names_of_a_key_are_read(family):
  for alias, name in THEIRS[family]['aliases'].items():
    if name not in names_of(family):
      continue
    theirs = config_of(family)
    lacks = without(theirs, family, name)
    value = theirs.get(name, theirs.get(alias))
    want = outcome(family, {**lacks, name: value})
    assert want is not None
    assert outcome(family, {**lacks, alias: value}) == want
    with pytest.raises(errors.InputError, match='one key by two names'):
      configs.read(FAMILIES[family], {**lacks, alias: value, name: value + 1})


@pytest.mark.parametrize(
  'case', ROTARY, ids=lambda c: f'{c["family"]}-{c["changes"]}-{c["length"]}'
)
def test_rotary_positions_are_those_of_the_class(case):
  theirs = config_of(case['family'])
  theirs = {k: v for k, v in theirs.items() if k not in OF_ROTARY}
  theirs.pop('rope_theta', None)
  model = configs.read(FAMILIES[case['family']], theirs | case['changes'])
  angle_Lk = np.outer(np.arange(case['length']), case['frequencies'])
  dim = model.heads.rotary_dim(model)
  assert dim == 2 * len(case['frequencies'])
  cos, sin = model.rope.angles(jnp.arange(case['length'])[None], dim)
  long = case['attention_factor']
  np.testing.assert_allclose(cos[0], long * np.cos(angle_Lk), atol=3e-5)
  np.testing.assert_allclose(sin[0], long * np.sin(angle_Lk), atol=3e-5)
  factor = model.rope.scaling.score_factor
  assert factor == pytest.approx(case['score_factor'], rel=1e-6)


@pytest.mark.parametrize(
  'case', WINDOWS, ids=lambda c: f'{c["family"]}-{c["changes"]}'
)
def test_windows_are_those_of_the_class(case):
  """Of each layer, where layer_types does not say it."""
  theirs = config_of(case['family'])
  theirs = {k: v for k, v in theirs.items() if k not in OF_WINDOWS}
  model = configs.read(FAMILIES[case['family']], theirs | case['changes'])
  windows = model.windows or (0,)
  found = [windows[i % len(windows)] for i in range(model.num_layers)]
  assert found == case['windows']


@pytest.mark.hf
@pytest.mark.slow
def test_transformers_still_says_so(tmp_path):
  if 'MOEJAX_HF_PYTHON' not in os.environ:
    pytest.skip('MOEJAX_HF_PYTHON names no Python with torch, transformers')
  words = [os.environ['MOEJAX_HF_PYTHON'], str(SCRIPT), str(tmp_path)]
  env = {**os.environ, 'HF_HUB_OFFLINE': '1', 'PYTHONPATH': ''}
  done = subprocess.run(
    words, capture_output=True, text=True, check=False, env=env, timeout=300
  )
  assert done.returncode == 0, done.stderr[-2000:]
  for path in GOLDEN.glob('*.json'):
    old, new = (
      json.loads((folder / path.name).read_text())
      for folder in (GOLDEN, tmp_path)
    )
    if isinstance(old, dict):
      # Another release may say the same.
      del old['transformers'], new['transformers']
    assert new == old, path.name
