"""GPUs by name, and clusters of them, without a plug-in."""

import pytest

from moejax.core import errors
from moejax.plan import topology
from moejax.plan.gpus import GPUS


@pytest.mark.parametrize('kind', GPUS)
def test_peaks_follow_from_cores_and_clock(kind):
  """FLOPs in a cycle times a clock that the card can hold."""
  gpu = GPUS[kind]
  assert 0.9 * gpu.clock < gpu.chip.clock / 1e9 < gpu.clock


@pytest.mark.parametrize('kind', GPUS)
def test_the_compiler_is_told_the_card_s_memory_and_cores(kind):
  gpu, text = GPUS[kind], GPUS[kind].target()
  lines = text.splitlines()
  assert f'device_memory_size: {gpu.chip.hbm:.0f}' in lines
  assert f'core_count: {gpu.cores}' in lines
  assert text.count('{') == text.count('}')


@pytest.mark.parametrize(
  ('name', 'parts'),
  [
    ('h20:8', ["unknown topology 'h20'", "did you mean 'h200'"]),
    ('h200', ['--topology=h200 must be', 'h200:8x4']),
    ('h200:0', ['--topology=h200:0 must be']),
    ('h100:4x4x4', ['--topology=h100:4x4x4 must be']),
    ('h100:32', ['NVLink joins at most 8 of h100', 'use h100:8x4']),
    ('gb200:100x2', ['at most 72', 'use gb200:72x4']),
  ],
)
def test_a_cluster_that_does_not_exist(name, parts):
  with pytest.raises(errors.InputError) as e:
    topology.find(name)
  for part in parts:
    assert part in str(e.value)


def test_several_slices_are_of_tpus():
  with pytest.raises(errors.InputError, match='as in h100:8x4'):
    topology.find('h200:8', 2)


def test_without_the_plug_in_it_says_how_to_get_it(monkeypatch):
  def missing(name):
    raise topology.importlib.metadata.PackageNotFoundError(name)

  monkeypatch.setattr(topology.importlib.metadata, 'version', missing)
  with pytest.raises(errors.InputError, match=r"pip install 'moejax\[gpu_plan"):
    topology.find('h200:8')


def test_a_plug_in_of_another_version(monkeypatch):
  monkeypatch.setattr(topology.importlib.metadata, 'version', lambda _: '0.1.2')
  with pytest.raises(errors.InputError, match='has version 0.1.2 and jax'):
    topology.find('h200:8')
