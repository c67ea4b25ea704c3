"""Modules of multi-token prediction in folders; see also test_parity.py."""

import json
import shutil

import numpy as np
import pytest
from helpers import hf, tiny

from moejax.convert import folder, load, save, tensor_files
from moejax.core import errors, trees

V3 = hf.GOLDEN / 'deepseek_v3'


def rewritten(path, keep):
  """The V3 checkpoint with those tensors alone whose name is kept."""
  shutil.copytree(V3, path)
  tensors = folder.open_folder(str(path)).tensors
  kept = {n: np.array(e.read()) for n, e in tensors.items() if keep(n)}
  specs = {name: (x.dtype, x.shape) for name, x in kept.items()}
  tensor_files.write(path / folder.SINGLE, specs, kept.items())
  return path


def of_modules(name):
  return name.startswith(('model.layers.2.', 'model.layers.3.'))


def test_copies_of_embedding_and_head_are_not_read():
  plan = load.plan(folder.open_folder(str(V3)))
  assert plan.config.mtp_layers == 2
  assert plan.ignored == [
    f'model.layers.{layer}.{name}.weight'
    for layer in (2, 3)
    for name in ('embed_tokens', 'shared_head.head')
  ]


def test_a_folder_without_them_is_a_model_without_them(tmp_path):
  """So transformers writes it, with the key in config.json."""
  path = rewritten(tmp_path / 'v3', lambda name: not of_modules(name))
  assert json.loads((path / folder.CONFIG).read_text())[
    'num_nextn_predict_layers'
  ]
  plan, _, weights = hf.read(path)
  assert plan.config.mtp_layers == 0
  _, _, whole = hf.read(V3)
  whole = trees.leaves(whole)
  for name, leaf in trees.leaves(weights).items():
    np.testing.assert_array_equal(leaf, whole[name][: len(leaf)], err_msg=name)


def test_half_of_them_is_refused(tmp_path):
  lost = 'model.layers.3.eh_proj.weight'
  path = rewritten(tmp_path / 'v3', lambda name: name != lost)
  with pytest.raises(errors.InputError, match=f'lacks {lost}'):
    load.plan(folder.open_folder(str(path)))


def test_a_family_without_a_place_for_them_gets_the_model_alone(tmp_path):
  plan = load.plan(folder.open_folder(str(hf.GOLDEN / 'olmoe')))
  config = tiny.dataclasses.replace(plan.config, mtp_layers=1)
  model = tiny.model(config)
  weights = trees.leaves(tiny.draw(model.shapes))
  written = save.plan(config, model.shapes)
  assert (written.family.model_type, written.dropped) == ('olmoe', True)
  save.write(written, weights.get, tmp_path / 'out')
  again, _, found = hf.read(tmp_path / 'out')
  assert again.config.mtp_layers == 0
  for name, leaf in trees.leaves(found).items():
    np.testing.assert_array_equal(
      leaf, weights[name][: len(leaf)], err_msg=name
    )
  assert not save.plan(plan.config, tiny.model(plan.config).shapes).dropped
