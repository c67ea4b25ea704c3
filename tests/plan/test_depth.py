"""Layers are a loop: a deeper model is no larger program."""

import dataclasses
import pathlib
import re

import pytest

from moejax import config
from moejax.plan import compile as compiling
from moejax.plan import topology

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
