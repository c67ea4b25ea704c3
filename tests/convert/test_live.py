"""Fresh checkpoints at random shapes, against transformers itself.

  make test-hf
  MOEJAX_HF_PYTHON=... MOEJAX_HF_SEED=... python -m pytest -m hf

It runs in another process, of any Python that has torch and transformers: that
of MOEJAX_HF_PYTHON, or this one. If this one has not, the tests are skipped.
"""

import os
import time

import numpy as np
import pytest
from etils import epath
from helpers import hf, tiny
from helpers.hf_process import PYTHON, far, is_there, theirs

from moejax.cli import convert
from moejax.convert import companions, quantised, save, tensor_files
from moejax.core import trees
from moejax.data import vocab

pytestmark = [pytest.mark.hf, pytest.mark.slow]

# Another one every day; what failed names it.
SEED = int(os.environ.get('MOEJAX_HF_SEED', time.time() // 86_400))


@pytest.fixture(scope='module')
def fresh(tmp_path_factory):
  if not is_there():
    pytest.skip(f'{PYTHON} has no torch and transformers')
  path = tmp_path_factory.mktemp('fresh')
  theirs('make', path, f'--seed={SEED}')
  return path


@pytest.mark.parametrize('family', hf.FAMILIES)
def test_it_answers_as_transformers_does(family, fresh, tmp_path):
  found = hf.compare(fresh / family)
  limits = {
    'logits': 1e-4,
    'loss': 1e-5,
    'gradients': 1e-4,
    'experts': 0,
    'balance loss': 1e-5,
  }
  assert all(found[name] <= most for name, most in limits.items()), (
    SEED,
    found,
  )
  if family in hf.PREDICT:
    found = hf.compare_mtp(fresh / family)
    assert max(found.values()) <= 1e-4, (SEED, found)
  ours, wanted = hf.greedy(fresh / family)
  assert ours == wanted, SEED
  plan, model, weights = hf.read(fresh / family)
  leaves = trees.leaves(weights)
  if (fresh / family / 'memory').exists():
    # Without what predicts more tokens, which is behind the other layers.
    _, _, found = hf.read(fresh / family / 'memory')
    for path, leaf in trees.leaves(found).items():
      own = leaves[path][: len(leaf)]
      np.testing.assert_array_equal(leaf, own, err_msg=path)
  was = plan.folder.config['model_type']
  written = save.plan(plan.config, model.shapes, was=was)
  target = tmp_path / 'out'
  save.write(
    written,
    lambda path: np.asarray(leaves[path]),
    target,
    shard_bytes=50_000,
    beside=companions.of_folder(
      epath.Path(fresh / family), vocab.Ids(plan.config.vocab_size)
    ),
  )
  name, off = far(target, fresh / family / 'expected.npz')
  assert name == written.family.architecture
  assert off < 1e-6, SEED
  # Names of files or, with another layout, of memory.
  layouts = written.family.experts.values()
  every = [r for rules in (written.family.rules, *layouts) for r in rules]
  for name in theirs('float32', target).split():
    assert any(rule.float32 and rule.matches(name) for rule in every), name


@pytest.mark.parametrize('num_shared', [0, 2])
def test_plain_models_are_loaded_as_a_qwen2_moe(num_shared, tmp_path):
  """Without shared experts, and with some that have no gate."""
  if not is_there():
    pytest.skip(f'{PYTHON} has no torch and transformers')
  moe = {'num_shared': num_shared, 'expert_width': 8}
  config = tiny.model_config(moe=moe)
  model = tiny.model(config)
  weights = tiny.weights(model)
  leaves = {k: np.asarray(x) for k, x in trees.leaves(weights).items()}
  save.write(save.plan(config, model.shapes), leaves.get, tmp_path / 'out')
  token_BL = tiny.batch([[12]]).token_BL
  logits_BLV = hf.logits(model, weights, token_BL)
  expected = tmp_path / 'expected.npz'
  np.savez(expected, token_BL=token_BL, logits_BLV=np.asarray(logits_BLV))
  name, off = far(tmp_path / 'out', expected)
  assert name == 'Qwen2MoeForCausalLM'
  assert off < 1e-4


def test_fine_tuned_and_out_again(tmp_path):
  if not is_there():
    pytest.skip(f'{PYTHON} has no torch and transformers')
  path, workdir = tmp_path / 'olmoe', tmp_path / 'run'
  hf.write_olmoe(path)
  hf.fine_tune(path, workdir, steps=20)
  target = tmp_path / 'out'
  convert.main(['export', f'--workdir={workdir}', f'--to={target}'])
  _, model, weights = hf.read(target)
  token_BL = np.random.default_rng(SEED).integers(0, 259, (2, 16))
  logits_BLV = hf.logits(model, weights, token_BL.astype(np.int32))
  expected = tmp_path / 'expected.npz'
  np.savez(expected, token_BL=token_BL, logits_BLV=np.asarray(logits_BLV))
  name, off = far(target, expected)
  assert name == 'OlmoeForCausalLM'
  assert off < 1e-4
  # It is not what it began with.
  assert far(path, expected)[1] > 1e-2


def test_numbers_of_four_bits_are_theirs(tmp_path):
  if not is_there():
    pytest.skip(f'{PYTHON} has no torch and transformers')
  rng = np.random.default_rng(SEED)
  given = {
    'blocks': rng.integers(0, 256, (3, 5, 2, 16)).astype(np.uint8),
    'scales': rng.integers(100, 140, (3, 5, 2)).astype(np.uint8),
  }
  file, tensors = tmp_path / 'given.npz', tmp_path / 'w.safetensors'
  np.savez(file, **given)
  theirs('unpack', file)
  given = {f'w_{name}': x for name, x in given.items()}
  specs = {name: (x.dtype, x.shape) for name, x in given.items()}
  tensor_files.write(tensors, specs, given.items())
  found = quantised.plain(tensor_files.read_header(tensors), {})['w'].read()
  np.testing.assert_array_equal(found.astype(np.float32), np.load(file)['w'])


def test_the_list_of_classes_is_that_of_transformers(tmp_path):
  """The committed one, by which tests know what exists."""
  if not is_there():
    pytest.skip(f'{PYTHON} has no torch and transformers')
  theirs('classes', tmp_path / 'found.txt')
  found = (tmp_path / 'found.txt').read_text()
  assert {*hf.CLASSES} <= {*found.split()}
