"""Every config builds, steps when shrunk, and is what its golden text says.

After a change that is meant, write the golden texts anew with

  UPDATE_GOLDEN=1 python -m pytest tests/test_configs.py
"""

import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.cli import run_config
from moejax.core import config
from moejax.data import synthetic
from moejax.model import build
from moejax.parallel import hosts
from moejax.parallel import mesh as meshes
from moejax.train import optimizer, state, step

ROOT = pathlib.Path(__file__).parents[1]
GOLDEN = ROOT / 'tests' / 'golden' / 'configs'
CONFIGS = sorted(p.stem for p in (ROOT / 'configs').glob('*.py'))


def _load(name, *overrides):
  return run_config.load(str(ROOT / 'configs' / name), overrides)


@pytest.mark.parametrize('name', CONFIGS)
def test_golden_text(name):
  text = config.to_text(_load(f'{name}.py'))
  path = GOLDEN / f'{name}.txt'
  if 'UPDATE_GOLDEN' in os.environ:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
  assert text == path.read_text()


@pytest.mark.parametrize('name', CONFIGS)
def test_a_config_survives_json_and_config_dict(name):
  run = _load(f'{name}.py')
  again = config.from_config_dict(run_config.Run, config.to_config_dict(run))
  assert again == run
  again = config.from_config_dict(run_config.Run, config.to_dict(run))
  assert again == run


@pytest.mark.parametrize('name', CONFIGS)
def test_every_config_steps_when_shrunk(name):
  run = _load(f'{name}.py:tiny', ('mesh.data', '1'))
  mesh = meshes.make(run.mesh, jax.devices()[:1])
  model = build.build(run.model, mesh)
  transform = optimizer.make(run.opt, run.train.steps, model.axes)
  step_config = step.StepConfig(run.opt, run.train.steps, 1, run.seed)
  train_step = step.make(model, transform, step_config)
  start = state.init(model, transform, jax.random.key(0))
  before = jax.tree.map(np.asarray, start.weights)
  rows = synthetic.Synthetic(
    length=run.data.sequence_length, vocab_size=run.model.vocab_size
  )
  batch = rows.batch(0, run.train.batch_size)
  after, metrics = train_step(start, hosts.put_rows(batch, mesh))
  assert jnp.isfinite(metrics['loss'])
  assert int(metrics['skipped']) == 0
  # Fresh weights know nothing: the loss is that of a uniform guess.
  uniform = np.log(run.model.vocab_size)
  assert abs(float(metrics['loss']) - uniform) < 0.1 * uniform
  moved = jax.tree.map(
    lambda a, b: np.any(a != np.asarray(b)), before, after.weights
  )
  still = [p for p, m in jax.tree_util.tree_leaves_with_path(moved) if not m]
  assert not still
