"""A run learns what its images show, from files on disk to held-out images."""

import json

import numpy as np
import pytest
from PIL import Image

from moejax import main as train_main
from moejax.core import trees
from moejax.run import restore

COLOURS = {'red': (230, 30, 30), 'blue': (30, 30, 230)}


def drawn(folder, name, count, seed):
  """Images of one colour with noise, and a question about each."""
  rng, rows = np.random.default_rng(seed), []
  for number in range(count):
    colour = [*COLOURS][number % 2]
    noise = rng.normal(0, 20, (8, 8, 3))
    pixels = np.clip(np.array(COLOURS[colour]) + noise, 0, 255)
    file = f'{name}{number}.png'
    Image.fromarray(pixels.astype(np.uint8)).save(folder / file)
    turns = [
      {'from': 'human', 'value': '<image>?'},
      {'from': 'gpt', 'value': colour},
    ]
    rows.append({'image': file, 'conversations': turns})
  (folder / f'{name}.json').write_text(json.dumps(rows))


def run(folder, workdir, **keys):
  flags = {
    'seed': 0,
    'data.conversations': folder / 'train.json',
    'data.validation_files': folder / 'held.json',
    'data.chat.template': 'deepseek',
    'data.vocab.name': 'bytes',
    'data.sequence_length': 40,
    'data.cache_dir': folder / 'cache',
    'data.images.folder': folder,
    'data.images.tokens': 4,
    'data.images.prepare.size': '8,8',
    'model.vocab_size': 260,
    'model.max_length': 40,
    'model.num_layers': 1,
    'model.width': 32,
    'model.num_heads': 2,
    'model.head_dim': 16,
    'model.moe.num_experts': 4,
    'model.moe.expert_width': 32,
    'model.init_std': 0.05,
    'model.vision.name': 'encoder',
    'model.vision.encoder.image_size': 8,
    'model.vision.encoder.patch_size': 4,
    'model.vision.encoder.width': 16,
    'model.vision.encoder.num_layers': 2,
    'model.vision.encoder.num_heads': 2,
    'model.vision.encoder.hidden_width': 32,
    'opt.peak_lr': 0.01,
    'opt.schedule.name': 'constant',
    'train.steps': 40,
    'train.batch_size': 8,
    'train.log_every': 10,
    'train.checkpoint_every': 20,
    'train.eval_every': 20,
    'report.samples': 'false',
    'report.page': 'false',
    'report.trace_tokens': 0,
    **keys,
  }
  listed = [f'--config.{key}={value}' for key, value in flags.items()]
  config = folder / 'seeing.py'
  config.write_text(
    'from moejax import config\n\n\ndef get_config():\n'
    '  return config.default()\n'
  )
  argv = ['main', f'--config={config}', f'--workdir={workdir}', *listed]
  train_main.main(argv[1:])
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  return [row['eval/loss'] for row in rows if 'eval/loss' in row]


@pytest.mark.soak
def test_what_images_show_is_learned_and_a_run_goes_on(tmp_path):
  """The answer has one bit; without its image it costs ln 2 an answer.

  An answer is 'red' or 'blue' and a marker of the end, at least four bytes of
  which are certain once the first is known, so a model that does not see has a
  loss of ln 2 / 8 a byte at least.
  """
  drawn(tmp_path, 'train', 64, 0)
  drawn(tmp_path, 'held', 16, 1)
  losses = run(tmp_path, tmp_path / 'whole')
  assert losses[-1] < 0.03 < np.log(2) / 8
  run(tmp_path, tmp_path / 'parts', **{'train.steps': 20})
  assert run(tmp_path, tmp_path / 'parts')[-1] == losses[-1]


@pytest.mark.soak
def test_a_run_with_experts_in_its_front_end_goes_on_to_the_bit(tmp_path):
  """Weights and selection biases after a restart are those without one."""
  drawn(tmp_path, 'train', 32, 0)
  drawn(tmp_path, 'held', 8, 1)
  encoder, projector = (
    'model.vision.encoder.feed_forward',
    'model.vision.projector',
  )
  keys = {
    f'{encoder}.name': 'experts',
    f'{encoder}.num_experts': 4,
    f'{encoder}.balance.loss_free.rate': 0.01,
    f'{projector}.name': 'experts',
    f'{projector}.num_experts': 4,
    f'{projector}.balance.loss_free.rate': 0.01,
    'train.log_every': 1,
    'train.checkpoint_every': 3,
    'train.eval_every': 6,
  }
  run(tmp_path, tmp_path / 'whole', **keys, **{'train.steps': 6})
  run(tmp_path, tmp_path / 'parts', **keys, **{'train.steps': 3})
  run(tmp_path, tmp_path / 'parts', **keys, **{'train.steps': 6})
  one, other = (
    trees.leaves(restore.state(str(tmp_path / name)).weights)
    for name in ('whole', 'parts')
  )
  biases = [path for path in one if 'loss_free' in path]
  assert {path.split('/')[1] for path in biases} == {'encoder', 'projector'}
  assert all(np.abs(one[path]).max() > 0 for path in biases)
  for path, w in one.items():
    np.testing.assert_array_equal(w, other[path], path)
  line = (tmp_path / 'whole' / 'metrics.jsonl').read_text().splitlines()[0]
  logged = json.loads(line)
  for part in ('encoder', 'projector'):
    assert logged[f'vision/{part}/balance/z_loss'] > 0
    assert logged[f'vision/{part}/load_max'] >= 1
