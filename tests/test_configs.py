"""Every config builds, steps when shrunk, and is what its golden text says.

After a change that is meant, write the golden texts anew with

  UPDATE_GOLDEN=1 python -m pytest tests/test_configs.py
"""

import dataclasses
import functools
import json
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import config_text

from moejax import config
from moejax.config import user_files
from moejax.core import config_tree, errors
from moejax.data import synthetic
from moejax.model import build
from moejax.parallel import hosts
from moejax.parallel import mesh as meshes
from moejax.plan import count
from moejax.train import optimizer, state, step

ROOT = pathlib.Path(__file__).parents[1]
GOLDEN = ROOT / 'tests' / 'golden' / 'configs'
CONFIGS = sorted(p.stem for p in (ROOT / 'configs').glob('*.py'))


def _load(name, *overrides):
  return config.load(str(ROOT / 'configs' / name), overrides)


def _variants(name):
  """What can stand behind the colon, the default first."""
  module = user_files.load(str(ROOT / 'configs' / f'{name}.py'), 'config')
  return list(getattr(module, 'VARIANTS', {}))


VARIED = {name: names for name in CONFIGS if (names := _variants(name))}


@pytest.mark.parametrize('name', CONFIGS)
def test_golden_text(name):
  text = config_text.to_text(_load(f'{name}.py'))
  path = GOLDEN / f'{name}.txt'
  if 'UPDATE_GOLDEN' in os.environ:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
  assert text == path.read_text()


@pytest.mark.parametrize('name', VARIED)
def test_golden_text_of_variants(name):
  """What each variant has other than the default."""
  default = _load(f'{name}.py')
  text = ''
  for variant in VARIED[name]:
    run = _load(f'{name}.py:{variant}')
    assert (
      config_tree.from_config_dict(config.Run, config_tree.to_dict(run)) == run
    )
    flat = config_tree.flatten(run)
    changed = [k for k in config_tree.differences(default, run) if k in flat]
    lines = [f'{key} = {json.dumps(flat[key])}' for key in changed]
    text += '\n'.join([f'[{variant}]', *lines, '', ''])
  path = GOLDEN / f'{name}.variants.txt'
  if 'UPDATE_GOLDEN' in os.environ:
    path.write_text(text)
  assert text == path.read_text()


@pytest.mark.parametrize('name', VARIED)
def test_variants_trace_when_shrunk(name):
  mesh = meshes.make(meshes.MeshConfig(data=1), jax.devices()[:1])
  runs = (_load(f'{name}.py:tiny,{variant}') for variant in VARIED[name])
  # Many differ in sizes alone, which are all the same when shrunk.
  for model in {run.model for run in runs}:
    build.build(model, mesh).trace(8, 64)


def _entries(name):
  """All that can stand behind the colon of a config; '' where nothing can."""
  path = str(ROOT / 'configs' / f'{name}.py')
  found = user_files.load(path, 'config')
  return getattr(found, 'NAMES', list(getattr(found, 'VARIANTS', [''])))


@pytest.mark.parametrize('name', CONFIGS)
def test_tiny_shrinks_every_entry_wherever_it_stands(name):
  entries = _entries(name)
  for entry in entries:
    run = _load(f'{name}.py:{entry}:tiny')
    words = (f'tiny:{entry}', f'{entry},tiny', f'tiny,{entry}')
    for word in words if entry == entries[-1] else ():
      assert _load(f'{name}.py:{word}') == run
    assert run.model.width == run.model.max_length == 64
    assert run.model.num_layers <= 3
    assert run.model.moe.num_experts <= 8
    assert run.train.steps == 20
    assert (
      config_tree.from_config_dict(config.Run, config_tree.to_dict(run)) == run
    )


HARD = {
  'every fifth layer': ['model.moe_every=5', 'model.num_layers=10'],
  'every fifth but the first': [
    'model.moe_every=5',
    'model.num_layers=11',
    'model.first_dense=6',
  ],
  'all layers dense': ['model.moe.num_experts=0', 'model.first_dense=4'],
  'three heads': ['model.num_heads=6', 'model.num_kv_heads=2'],
  'a third of the features turn': ['model.rope.share=0.34'],
  'hardly any feature turns': ['model.rope.share=0.01', 'model.head_dim=256'],
  'a million neurons': [
    'model.feed_forward=peer',
    'model.feed_forward.num_keys=1024',
  ],
  'large soft': [
    'model.feed_forward=soft_moe',
    'model.feed_forward.not_causal=true',
    'model.feed_forward.num_experts=128',
    'model.feed_forward.slots=256',
  ],
  'a divisor for each pair': [
    'model.rope.scaling=longrope',
    f'model.rope.scaling.short={[1.5] * 16}',
    f'model.rope.scaling.long={[2.0] * 16}',
  ],
  'three tokens ahead': ['model.mtp_layers=3'],
  'parts': ['model.token_chunks=6', 'train.micro_batches=4'],
  'many devices': ['mesh.expert=64', 'mesh.model=8'],
  'weights of another run': ['start=/no/such/workdir'],
  'a long warm-up': ['opt.schedule.warmup=1000'],
}


@pytest.mark.parametrize('case', HARD)
def test_tiny_shrinks_any_run(case):
  """Sizes that a shrunk model would not have by themselves."""
  flags = {'model.moe.num_experts': '64', 'model.moe.router.k': '6'}
  flags.update(flag.split('=') for flag in HARD[case])
  run = config.shrink(config_tree.override_all(config.Run(), flags.items()))
  run.check()
  run.opt.schedule.check(run.train.steps)
  assert run.start == ''
  assert run.model.mtp_layers <= 1
  assert count.count(run.model).total < 3e6


def test_an_unknown_variant_names_the_nearest():
  with pytest.raises(errors.InputError, match="did you mean 'half'"):
    _load('ds_145b.py:halv')


@pytest.mark.parametrize('name', CONFIGS)
def test_a_config_survives_json_and_config_dict(name):
  run = _load(f'{name}.py')
  again = config_tree.from_config_dict(
    config.Run, config_tree.to_config_dict(run)
  )
  assert again == run
  again = config_tree.from_config_dict(config.Run, config_tree.to_dict(run))
  assert again == run


@functools.cache
def _step(run):
  """What one step gives, and the weights that it left as they were."""
  mesh = meshes.make(run.mesh, jax.devices()[:1])
  model = build.build(run.model, mesh)
  transform = optimizer.make(run.opt, run.train.steps, model.decays)
  train = dataclasses.replace(run.train, micro_batches=1)
  train_step = step.make(model, transform, run.opt, train, run.seed)
  start = state.init(model, transform, jax.random.key(0))
  before = jax.tree.map(np.asarray, start.weights)
  rows = synthetic.Synthetic(
    length=run.data.sequence_length, vocab_size=run.model.vocab_size
  )
  batch = rows.batch(0, run.train.batch_size)
  after, metrics = train_step(start, hosts.put_rows(batch, mesh))
  moved = jax.tree.map(
    lambda a, b: np.any(a != np.asarray(b)), before, after.weights
  )
  still = [p for p, m in jax.tree_util.tree_leaves_with_path(moved) if not m]
  return metrics, still


@pytest.mark.parametrize('name', CONFIGS)
def test_every_config_traces_when_shrunk(name):
  run = _load(f'{name}.py:tiny', ('mesh.data', '1'))
  mesh = meshes.make(run.mesh, jax.devices()[:1])
  build.build(run.model, mesh).trace(8, 64)


# With capacity, noise and an auxiliary loss. A step of the default kind, with
# dropless experts, is taken by every run of tests/end_to_end; `make test-soak`
# steps the other configs.
STEPPED = {'gshard_2b'}


@pytest.mark.parametrize(
  'name',
  [
    pytest.param(name, marks=[] if name in STEPPED else [pytest.mark.soak])
    for name in CONFIGS
  ],
)
def test_every_config_steps_when_shrunk(name):
  # Some are the same run when shrunk, which is stepped once.
  run = _load(f'{name}.py:tiny', ('mesh.data', '1'))
  metrics, still = _step(run)
  assert jnp.isfinite(metrics['loss'])
  assert int(metrics['skipped']) == 0
  # Fresh weights know nothing: the loss is that of a uniform guess.
  uniform = np.log(run.model.vocab_size)
  assert abs(float(metrics['loss']) - uniform) < 0.1 * uniform
  assert not still
