"""Workdirs of tiny models, and folders of rows, for tests of suites."""

import json

import jax
import pytest
from tokenizers import (
  AddedToken,
  Tokenizer,
  decoders,
  models,
  pre_tokenizers,
)

from helpers import tiny
from moejax.config import Run
from moejax.core import config_tree, files
from moejax.data.config import DataConfig
from moejax.data.vocab import Bytes
from moejax.model import build
from moejax.model.config import ModelConfig
from moejax.moe.config import MoEConfig
from moejax.parallel import mesh as meshes
from moejax.train import checkpoint

STEP = 7
MODEL = ModelConfig(
  vocab_size=259,
  max_length=48,
  num_layers=1,
  first_dense=0,
  width=16,
  num_heads=2,
  dense_width=16,
  moe=MoEConfig(num_experts=4, expert_width=8),
)
PIQA = [
  {'goal': 'Boil it', 'sol1': 'Heat.', 'sol2': 'Cool.', 'label': 0},
  {'goal': 'Dry it', 'sol1': 'Wet.', 'sol2': 'Hang it up.', 'label': 1},
  {'goal': 'x' * 60, 'sol1': 'Now.', 'sol2': 'Then.', 'label': 1},
]
LAMBADA = [{'text': 'One two three'}, {'text': 'Four five'}]


def workdir(folder, seed):
  """A run of drawn weights, with a checkpoint of step STEP."""
  folder.mkdir()
  data = DataConfig(mixture='synthetic', vocab=Bytes(), sequence_length=16)
  run = Run(model=MODEL, data=data)
  mesh = meshes.make(meshes.MeshConfig(data=1), jax.devices()[:1])
  model = build.build(run.model, mesh)
  files.atomic_write_json(folder / 'config.json', config_tree.to_dict(run))
  with checkpoint.Checkpointer(folder / 'checkpoints') as checkpoints:
    weights = tiny.draw(model.shapes, seed=seed, std=0.3)
    checkpoints.save(STEP, {'weights': weights}, {'metric': 1.0})
  return folder


def write(folder, name, rows, splits=('validation', 'test')):
  """The rows of a task, as each of these splits."""
  (folder / name).mkdir(parents=True, exist_ok=True)
  for split in splits:
    path = folder / name / f'{split}.jsonl'
    path.write_text('\n'.join(map(json.dumps, rows)))


def write_tokenizer(folder):
  """Gives a Hugging Face folder a tokenizer of bytes, 258 ids."""
  names = sorted(pre_tokenizers.ByteLevel.alphabet())
  tokenizer = Tokenizer(
    models.BPE(vocab={x: i for i, x in enumerate(names)}, merges=[])
  )
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = decoders.ByteLevel()
  tokenizer.add_special_tokens([AddedToken('<eos>')])
  tokenizer.save(str(folder / 'tokenizer.json'))
  settings = {
    'eos_token': '<eos>',
    'tokenizer_class': 'PreTrainedTokenizerFast',
  }
  (folder / 'tokenizer_config.json').write_text(json.dumps(settings))
  config = json.loads((folder / 'config.json').read_text())
  ids = {'bos_token_id': None, 'eos_token_id': 256, 'pad_token_id': None}
  (folder / 'config.json').write_text(json.dumps(config | ids))


def check_close(tasks, wanted):
  """The results of `evaluate --json` are equal, but for rounding."""
  assert tasks.keys() == wanted.keys()
  for name, result in wanted.items():
    assert tasks[name]['digest'] == result['digest']
    assert tasks[name]['means'] == pytest.approx(result['means'], rel=1e-4)
