"""What `model.dtype=auto` stands for."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import pytest
from etils import epath

from moejax import config
from moejax.core import config_tree, files
from moejax.model import build, compute_dtype
from moejax.model.config import ModelConfig
from moejax.parallel import mesh as meshes
from moejax.run import restore, train
from moejax.run.processes import ALONE


def devices(platform):
  return [types.SimpleNamespace(platform=platform)]


@pytest.mark.parametrize('platform', ['tpu', 'gpu'])
def test_accelerators_compute_in_bfloat16(platform, monkeypatch):
  monkeypatch.setattr(compute_dtype, 'cpu_gain', lambda: 0.1)
  assert compute_dtype.resolve('auto', devices(platform)) == 'bfloat16'
  assert compute_dtype.resolve('float32', devices(platform)) == 'float32'


@pytest.mark.parametrize(
  ('gain', 'dtype'),
  [(0.5, 'float32'), (1.2, 'float32'), (1.4, 'bfloat16'), (6.0, 'bfloat16')],
)
def test_a_cpu_computes_in_bfloat16_if_that_is_clearly_faster(
  gain, dtype, monkeypatch
):
  monkeypatch.setattr(compute_dtype, 'cpu_gain', lambda: gain)
  assert compute_dtype.resolve('auto', devices('cpu')) == dtype


def test_the_gain_is_of_the_medians_and_measured_once(monkeypatch):
  """A clock by hand: rounds of 9 and 3 seconds, two of float32 disturbed."""
  disturbed = {2: 90.0, 5: 4.5}
  ticks = [0.0]
  for number in range(compute_dtype.ROUNDS + 1):
    for seconds in (disturbed.get(number, 9.0), 3.0):
      # Nobody reads the clock behind the first products, which compile.
      ticks += [ticks[-1] + seconds] * (2 if number else 1)
  clock = iter(ticks)
  monkeypatch.setattr(
    compute_dtype, 'time', types.SimpleNamespace(process_time=clock.__next__)
  )
  compute_dtype.cpu_gain.cache_clear()
  assert compute_dtype.cpu_gain() == 3.0
  assert compute_dtype.cpu_gain() == 3.0  # the clock has no more ticks
  compute_dtype.cpu_gain.cache_clear()


def test_a_model_that_is_built_has_a_type(monkeypatch):
  monkeypatch.setattr(compute_dtype, 'cpu_gain', lambda: 2.0)
  mesh = meshes.make(meshes.MeshConfig(), jax.devices()[:1])
  small = ModelConfig(vocab_size=8, width=8, num_layers=1, num_heads=1)
  model = build.build(dataclasses.replace(small, dtype='auto'), mesh)
  assert model.config.dtype == 'bfloat16'
  assert {x.dtype for x in jax.tree.leaves(model.shapes)} == {
    jnp.dtype('float32')
  }


def test_a_workdir_keeps_the_type_that_its_run_began_with(
  tmp_path, monkeypatch
):
  auto = config_tree.override(config.Run(), 'model.dtype', 'auto')
  mesh = meshes.make(meshes.MeshConfig(), jax.devices()[:1])
  folder = epath.Path(tmp_path)
  monkeypatch.setattr(compute_dtype, 'cpu_gain', lambda: 2.0)
  began = train.with_dtype(auto, folder, mesh, ALONE)
  assert began.model.dtype == 'bfloat16'
  assert dataclasses.replace(began, model=auto.model) == auto
  tree = config_tree.to_dict(began)
  files.atomic_write_json(folder / restore.CONFIG, tree)
  monkeypatch.setattr(compute_dtype, 'cpu_gain', lambda: 0.5)
  assert train.with_dtype(auto, folder, mesh, ALONE) == began
  float32 = config_tree.override(auto, 'model.dtype', 'float32')
  assert train.with_dtype(float32, folder, mesh, ALONE) == float32
