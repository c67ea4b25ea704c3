"""run/memory.py: what no memory holds is refused before it is tried."""

import types

import jax
import numpy as np
import pytest
from helpers import own_text

from moejax import config
from moejax.core import config_tree, errors, exits
from moejax.run import memory

GIB = 2**30


def _run():
  """8 rows of 1024 tokens of width 1024, 4 layers, in 2 micro-batches."""
  run = config.Run()
  for key, text in (
    ('train.batch_size', '8'),
    ('train.micro_batches', '2'),
    ('data.sequence_length', '1024'),
    ('model.width', '1024'),
    ('model.num_layers', '4'),
    ('model.dtype', 'bfloat16'),
  ):
    run = config_tree.override(run, key, text)
  return run


def _model():
  """2^30 parameters, on one device."""
  weight = jax.ShapeDtypeStruct((2**20, 2**10), np.float32)
  mesh = types.SimpleNamespace(devices=np.array(jax.devices()[:1]))
  return types.SimpleNamespace(
    shapes={'w': weight}, decays={'w': True}, mesh=mesh
  )


def test_the_bound_by_hand(monkeypatch):
  """12 bytes of 2^30 parameters; 4 layers x 4 rows x 1024 x 1024 x 2 bytes."""
  need = 12 * GIB + 32 * 2**20
  for num_bytes in (need, None):
    monkeypatch.setattr(memory, 'available', lambda *_: num_bytes)  # noqa: B023
    memory.check(_run(), _model())
  monkeypatch.setattr(memory, 'available', lambda *_: need - 1)
  with pytest.raises(errors.DoesNotFitError) as caught:
    memory.check(_run(), _model())
  line = str(caught.value)
  assert 'moments take 12.0 GiB (1,073,741,824 parameters of 12 byt' in line
  assert '4 layers at least 0.0 GiB (4 rows of 1,024 tokens)' in line
  assert '1 cpu device has 12.0 GiB' in line


def test_the_memory_of_devices(monkeypatch, tmp_path):
  path = tmp_path / 'meminfo'
  monkeypatch.setattr(memory, 'MEMINFO', path)
  mesh = types.SimpleNamespace(local_devices=jax.devices()[:1])
  assert memory.available(mesh, 1) is None
  path.write_text('MemTotal:  3000 kB\nMemFree:  10 kB\nSwapTotal:  20 kB\n')
  assert memory.available(mesh, 1) == 3020 * 1024
  assert memory.available(mesh, 2) == 2 * 3020 * 1024

  def chip(stats):
    return types.SimpleNamespace(platform='gpu', memory_stats=lambda: stats)

  mesh.devices = np.empty(4)  # two of which are another process's
  mesh.local_devices = [chip({'bytes_limit': 7}), chip({'bytes_limit': 8})]
  assert memory.available(mesh, 2) == 32
  mesh.local_devices = [chip({'bytes_limit': 7}), chip(None)]
  assert memory.available(mesh, 2) is None


@pytest.mark.parametrize(
  'flag',
  [
    '--config.model.moe.expert_width=2147483647',
    '--config.model.moe.num_experts=1000000',
    '--config.train.batch_size=2147483640',
  ],
)
def test_a_huge_run_says_what_it_would_need_and_makes_nothing(flag, tmp_path):
  text = own_text.write_stories(tmp_path / 'stories.jsonl')
  workdir = tmp_path / 'run'
  ended = own_text.call(*own_text.flags(text, workdir), flag)
  assert (ended.code, ended.out) == (exits.DOES_NOT_FIT, [])
  (line,) = ended.err
  assert line.startswith("does not fit: the weights and AdamW's moments take ")
  assert not workdir.exists()
