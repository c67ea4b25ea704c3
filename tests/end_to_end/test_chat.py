"""A Qwen-like model is tuned on conversations, exported, and asked in both.

MOEJAX_HF_PYTHON=... python -m pytest -m hf tests/end_to_end/test_chat.py
"""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
from unittest import mock

import pytest
from helpers import hf, spoken, tiny

from moejax import config as configs
from moejax.cli import convert
from moejax.convert import folder, load, save
from moejax.core import trees
from moejax.evals.sampling import Sampling
from moejax.model import build
from moejax.run import talk as talks
from moejax.run import train, turns
from moejax.run.trained import open_trained

ROOT = pathlib.Path(__file__).parents[2]
PYTHON = os.environ.get('MOEJAX_HF_PYTHON', sys.executable)
NUMBER = 12


def write_model(path):
  """A checkpoint with a tokenizer whose texts end with <|endoftext|>."""
  config = load.plan(folder.open_folder(str(hf.GOLDEN / 'qwen3_moe'))).config
  config = dataclasses.replace(config, vocab_size=512, max_length=128)
  model = build.build(config, hf.one_device())
  leaves = trees.leaves(tiny.draw(model.shapes, seed=0))
  save.write(save.plan(config, model.shapes), leaves.get, path)
  kept = (path / 'config.json').read_text()
  spoken.FAMILIES['qwen'](path)
  (path / 'config.json').write_text(kept)
  settings = path / 'tokenizer_config.json'
  tokens = json.loads(settings.read_text())
  tokens.pop('chat_template', None)
  settings.write_text(json.dumps({**tokens, 'eos_token': '<|endoftext|>'}))


def write_talks(path):
  turns = lambda n: [
    {'role': 'user', 'content': f'{n} on the cat'},
    {'role': 'assistant', 'content': f'the mat {n}'},
  ]
  lines = [json.dumps({'messages': turns(n)}) + '\n' for n in range(60)]
  path.write_text(''.join(lines))


def ask(place, question):
  done = subprocess.run(
    [
      PYTHON,
      str(ROOT / 'tests/golden/ask_answer.py'),
      str(place),
      question,
      str(NUMBER),
    ],
    capture_output=True,
    text=True,
    check=False,
    timeout=300,
    env={**os.environ, 'HF_HUB_OFFLINE': '1', 'PYTHONPATH': ''},
  )
  assert done.returncode == 0, done.stderr[-2000:]
  return json.loads(done.stdout)


@pytest.mark.hf
def test_an_export_answers_in_transformers_with_the_same_tokens(tmp_path):
  write_model(tmp_path / 'base')
  write_talks(tmp_path / 'talks.jsonl')
  overrides = {
    'data.conversations': str(tmp_path / 'talks.jsonl'),
    'data.chat.template': 'chatml',
    'data.cache_dir': str(tmp_path / 'cache'),
    'model.dtype': 'float32',
    'opt.peak_lr': '0.01',
    'report.samples': 'false',
    'report.eval_batches': '0',
    'train.batch_size': '8',
    'train.steps': '30',
    'train.eval_every': '30',
  }
  config = configs.load(
    f'{ROOT}/configs/hf/chat.py:{tmp_path / "base"}', [*overrides.items()]
  )
  workdir = str(tmp_path / 'run')
  with mock.patch.object(train.self_check, 'run'):
    train.train(config, workdir)
  out = tmp_path / 'out'
  convert.main(['export', f'--workdir={workdir}', f'--to={out}'])
  trained = open_trained(workdir)
  weights, step = trained.weights('newest', lambda _: None)
  own = talks.Talk(
    trained,
    weights,
    step,
    turns.vocab_of(trained),
    talks.Settings(Sampling(), NUMBER),
  )
  endings = set()
  for question in ('7 on the cat', 'the the the'):
    own.reset()
    said = ''.join(own.answer(question))
    theirs = ask(out, question)
    assert theirs['prompt'] == own._read
    new = theirs['new']
    vocab = trained.run.data.vocab
    (end,) = vocab.encode_prompt('<|im_end|>')
    assert [i for i in new if i != end] == own._written
    assert said == vocab.decode(own._written)
    endings.add(new[-1] == end)
  # It has learned to end a turn, so both ended one before NUMBER tokens.
  assert True in endings
