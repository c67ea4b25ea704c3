"""The program that a plan compiles: layers are a loop, a teacher is in it."""

import dataclasses
import pathlib
import re
import types

import jax
import pytest

from moejax import config
from moejax.core import config_tree, files
from moejax.plan import compile as compiling
from moejax.plan import memory, topology

CONFIGS = pathlib.Path(__file__).parents[2] / 'configs'


def _operations(name, layers):
  """What XLA is given to compile: how many operations."""
  run = config.load(f'{CONFIGS / name}:tiny')
  model = dataclasses.replace(run.model, num_layers=layers, remat='full')
  run = dataclasses.replace(run, model=model)
  lowered = compiling.lower(run, topology.find('cpu:8'))[-1]
  return len(re.findall(r' = ', lowered.as_text()))


@pytest.mark.parametrize(
  'name', [pytest.param('ds_16b.py', marks=pytest.mark.soak), 'dense_2b.py']
)
def test_operations_do_not_grow_with_depth(name):
  shallow, deep = (_operations(name, layers) for layers in (4, 12))
  assert shallow > 1000
  assert shallow == deep


def test_a_teacher_is_part_of_the_plan(tmp_path):
  """Its weights are an input of the step, and a part of the memory."""
  run = config.load(f'{CONFIGS}/tiny.py:tiny')
  full = dataclasses.replace(
    run, model=dataclasses.replace(run.model, num_layers=3)
  )
  (tmp_path / 'checkpoints').mkdir()
  files.atomic_write_json(tmp_path / 'config.json', config_tree.to_dict(full))
  key = 'train.distillation.teacher'
  where = topology.find('cpu:2')
  lowered = [
    compiling.lower(config_tree.override(run, key, place), where)[-1]
    for place in ('', str(tmp_path))
  ]
  alone, taught = (len(jax.tree.leaves(x.in_avals)) for x in lowered)
  weights = compiling.teacher_weights(
    config_tree.override(run, key, str(tmp_path)), where
  )
  assert taught == alone + len(jax.tree.leaves(weights))
  compiled = types.SimpleNamespace(
    state=types.SimpleNamespace(weights={}, opt_state={}),
    batch={},
    teacher=weights,
    base=None,
    program=None,
    refusal='too large',
  )
  assert memory.of(compiled, 1e9).parts['teacher'] > 1e5
