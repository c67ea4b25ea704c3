"""Workdirs with adapters: their base, and what readers of weights get."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from helpers import hf, tiny

from moejax.cli import convert
from moejax.config import Run
from moejax.convert import folder as folders
from moejax.convert import load
from moejax.core import config_tree, errors, files, trees
from moejax.data.config import DataConfig
from moejax.data.vocab import Bytes
from moejax.model import build
from moejax.run import (
  base_weights,
  layer_source,
  new_workdir,
  restore,
  weight_files,
)
from moejax.train import checkpoint, lora
from moejax.train.config import TrainConfig

LORA = lora.Lora(rank=2, alpha=3.0)
ROUTED = 'moe/ffn/routed/w_in_ED2F'


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  """A workdir that nobody has trained, its model, and its whole weights."""
  workdir = tmp_path_factory.mktemp('lora') / 'run'
  workdir.mkdir()
  config = load.plan(folders.open_folder(str(hf.GOLDEN / 'qwen3_moe'))).config
  config = dataclasses.replace(config, vocab_size=259)
  run = Run(
    model=config,
    data=DataConfig(mixture='synthetic', vocab=Bytes(), sequence_length=16),
    train=TrainConfig(lora=LORA),
  )
  files.atomic_write_json(workdir / 'config.json', config_tree.to_dict(run))
  model = tiny.model(config)
  own = lora.of(model, LORA)
  base = tiny.draw(model.shapes, seed=1, std=0.1)
  base_weights.keep(own, base, workdir, base_weights.SINGLE)
  for step in (10, 20):
    adapters = tiny.draw(own.shapes, seed=step, std=0.1)
    with checkpoint.Checkpointer(workdir / 'checkpoints') as saved:
      saved.save(step, {'weights': adapters}, {})
  whole = jax.device_get(own.merged(base, adapters))
  return workdir, model, base, whole


def test_whoever_reads_weights_gets_the_sum(made):
  workdir, model, base, whole = made
  weights, step = restore.weights(model, str(workdir), print)
  assert step == 20
  for path, weight in trees.leaves(weights).items():
    np.testing.assert_array_equal(weight, trees.leaves(whole)[path], path)
  changed = {
    path
    for path, weight in trees.leaves(whole).items()
    if np.any(weight != trees.leaves(base)[path])
  }
  assert changed == {*lora.of(model, LORA).forms}
  assert ROUTED in changed
  other, _ = restore.weights(model, str(workdir), print, step='10')
  assert np.any(trees.leaves(other)[ROUTED] != trees.leaves(whole)[ROUTED])


def test_weights_read_in_pieces_are_the_same_numbers(made):
  workdir, model, _, whole = made
  leaves = trees.leaves(whole)
  with weight_files.opened(str(workdir), model.shapes) as (get, step):
    assert step == 20
    for path, want in leaves.items():
      every = (slice(None),) * want.ndim
      np.testing.assert_allclose(get(path)[every], want, rtol=1e-6, atol=1e-7)
    for index in ((1, 2), (slice(1, 2), 3), (0, slice(None), 1)):
      want = leaves[ROUTED][index]
      found = get(ROUTED)[index]
      assert found.shape == want.shape
      np.testing.assert_allclose(found, want, rtol=1e-6, atol=1e-7)
  with layer_source.of_workdir(str(workdir), model) as (read, _):
    layer = layer_source.LayerSource(model, read).layer('moe', 1)
    tiny.assert_close(layer, jax.tree.map(lambda x: x[1], whole['moe']))


def test_an_export_holds_the_sum(made, tmp_path):
  workdir, model, _, whole = made
  convert.main(['export', f'--workdir={workdir}', f'--to={tmp_path / "out"}'])
  plan = load.plan(folders.open_folder(str(tmp_path / 'out')))
  found = load.weights(plan, build.build(plan.config, hf.one_device()))
  tiny.assert_close(found, whole, rtol=1e-6, atol=1e-7)


def test_a_missing_base_is_one_line(made, tmp_path):
  workdir, model, _, _ = made
  own = lora.of(model, LORA)
  with pytest.raises(errors.InputError, match='base is missing: it has') as e:
    base_weights.read(own, tmp_path)
  assert '\n' not in str(e.value)
  # A base of another model.
  other = dataclasses.replace(model.config, width=model.config.width * 2)
  with pytest.raises(errors.InputError, match='is of another model'):
    base_weights.read(lora.of(tiny.model(other), LORA), workdir)


def test_a_workdir_made_of_another_has_whole_weights(made, tmp_path):
  """As that of a model with fewer experts, whose config is the old one."""
  workdir, model, _, whole = made
  run = restore.run_of(str(workdir))
  assert base_weights.adapters_of(workdir) == LORA
  place = new_workdir.make(str(tmp_path / 'new'))
  new_workdir.save(place, whole, {}, print)
  new_workdir.finish(place, run)
  assert base_weights.adapters_of(place) is None
  text = json.loads((tmp_path / 'new' / 'config.json').read_text())
  assert text['train']['lora']['rank'] == 0
  weights, _ = restore.weights(model, str(place), print)
  np.testing.assert_array_equal(
    trees.leaves(weights)[ROUTED], trees.leaves(whole)[ROUTED]
  )


def test_a_run_that_begins_anew_replaces_the_base(made, tmp_path):
  _, model, base, _ = made
  own = lora.of(model, LORA)
  other = jax.tree.map(lambda x: x + 1, base)
  for weights in (base, other):
    base_weights.keep(own, weights, tmp_path, base_weights.SINGLE)
  found = base_weights.read(own, tmp_path)
  np.testing.assert_array_equal(
    trees.leaves(found.weights)[ROUTED], trees.leaves(other)[ROUTED]
  )
