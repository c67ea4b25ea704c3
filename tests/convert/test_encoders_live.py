"""Fresh encoders and image processors, against transformers itself.

  make test-hf

See test_live.py for the Python that transformers runs in.
"""

import os
import pathlib
import subprocess
import time

import jax
import numpy as np
import pytest
from helpers import hf_process

from moejax.convert import encoders, folder, load, processors, save
from moejax.core import trees
from moejax.parallel import mesh as meshes
from moejax.vision import build
from moejax.vision.preprocessing import preprocess

pytestmark = [pytest.mark.hf, pytest.mark.slow]

# Another one every day; what failed names it.
SEED = int(os.environ.get('MOEJAX_HF_SEED', time.time() // 86_400))
SCRIPT = hf_process.SCRIPT.with_name('make_hf_vision.py')
NAMES = ('clip', 'siglip', 'clip_both', 'siglip_both', 'llava')


def theirs(*words):
  return hf_process.theirs(*words, script=SCRIPT)


@pytest.fixture(scope='module')
def fresh(tmp_path_factory):
  if not hf_process.is_there():
    pytest.skip(f'{hf_process.PYTHON} has no torch and transformers')
  path = tmp_path_factory.mktemp('fresh')
  theirs('make', path, f'--seed={SEED}')
  return path


def read(path):
  mesh = meshes.make(meshes.MeshConfig(data=1), jax.devices()[:1])
  plan = encoders.plan(folder.open_folder(str(path)))
  encoder = build.encoder(plan.config, mesh)
  return plan, encoder, load.weights(plan, encoder)


def far(found, wanted):
  return np.abs(np.asarray(found) - wanted).max() / np.std(wanted)


@pytest.mark.parametrize('name', NAMES)
def test_hidden_states_are_those_of_transformers(name, fresh):
  plan, encoder, weights = read(fresh / name)

  @jax.jit
  def run(weights, image_BHWC):
    module = encoder.bind(weights)
    every = [
      module.features(image_BHWC, [n], class_token=True)
      for n in range(plan.config.num_layers + 1)
    ]
    return module(image_BHWC), every

  for file in ('expected', 'square'):
    wanted = np.load(fresh / name / f'{file}.npz')
    out, every = run(weights, wanted['image_BHWC'])
    assert far(out.x_BND, wanted['last_BSD']) < 1e-4, SEED
    assert (out.pooled_BD is None) == ('pooled_BD' not in wanted)
    assert far(out.pooled_BD, wanted['pooled_BD']) < 1e-4, SEED
    for ours, state in zip(every, wanted['hidden_NBSD'], strict=True):
      assert far(ours, state) < 1e-4, SEED


def test_transformers_loads_what_is_written(fresh, tmp_path):
  """Every encoder in both layouts, by one process."""
  classes = {}
  for name in NAMES:
    plan, encoder, weights = read(fresh / name)
    leaves = {k: np.asarray(x) for k, x in trees.leaves(weights).items()}
    for layout in encoders.LAYOUTS:
      written = encoders.export(plan.config, encoder.shapes, layout)
      save.write(written, leaves.__getitem__, tmp_path / name / layout)
      classes[name, layout] = written.config['architectures'][0]
  said = theirs('check', tmp_path, fresh)
  found = {}
  for line in said.splitlines():
    name, layout, kind, off, missing = line.split()
    found[name, layout] = kind
    assert (float(off) < 1e-6, missing) == (True, '0'), (SEED, line)
  assert found == classes


def test_preprocessing_is_that_of_the_pillow_processors(tmp_path):
  """To one grey level, which is 1 / 255 over the std of the channel."""
  probe = [hf_process.PYTHON, '-c', 'import PIL, torch, transformers']
  if subprocess.run(probe, capture_output=True, check=False).returncode:
    pytest.skip(f'{hf_process.PYTHON} lacks Pillow; make test-hf installs it')
  rng = np.random.default_rng(SEED)
  sizes = [(300, 500), (500, 300), (224, 224), (40, 31), (9, 700)]
  images = {
    f'image_{n}': rng.integers(0, 256, (*size, 3)).astype(np.uint8)
    for n, size in enumerate(sizes)
  }
  file = pathlib.Path(tmp_path / 'images.npz')
  np.savez(file, **images)
  theirs('process', file)
  wanted = np.load(file)
  for kind in ('clip', 'siglip', 'odd'):
    config = processors.read(tmp_path / kind)
    level = 1.01 / 255 / min(config.std)
    for name, image_HWC in images.items():
      answer = wanted[name.replace('image', kind)]
      found = preprocess(image_HWC, config)
      assert found.shape == answer.shape
      assert np.abs(found - answer).max() <= level, (SEED, kind, name)
