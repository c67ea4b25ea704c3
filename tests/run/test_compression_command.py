"""The lines that follow a compression."""

import pathlib
import shlex
import types

import pytest
from helpers import tiny, workdirs

from moejax import config
from moejax.compress import METHODS
from moejax.config import Run
from moejax.data.config import DataConfig
from moejax.run import compression_command

ROOT = pathlib.Path(__file__).parents[2]
# With matrices that factors of 32 make smaller.
MODEL = tiny.model_config(vocab_size=259, width=128, moe={'expert_width': 128})
ABOUT = {
  'parameters': (10, 5),
  'layers': [{'kept': [0, 1]}],
  'steps': {'training': [('train.steps', 3)]},
  'experts': [4],
  'bytes': (10, 5),
  'repeated_bytes': 0,
  'from': 'runs/the full one',
  'step': 7,
  'method': 'random',
}


def test_commands_for_a_new_workdir_can_be_pasted_whatever_its_name():
  _, *lines = compression_command.in_words("runs/it's small", ABOUT)
  words = [shlex.split(line)[1:] for line in lines]
  flag = "--workdir=runs/it's small"
  assert [flag in line for line in words] == [True, True, False, True]
  assert "--config=hf/continue:runs/it's small" in words[2]
  assert '--config.train.distillation.teacher=runs/the full one' in words[2]


TEXTS = {
  'own files': (
    {'files': 'my texts/*.jsonl'},
    (),
    "--config.data.files='my texts/*.jsonl'",
  ),
  'a mixture': ({'mixture': 'c4'}, (), '--config.data.mixture=c4'),
  'a task': ({'mixture': 'minipile_code'}, (), ''),
  'that of the run': ({}, (), '--config.data.mixture=synthetic'),
  'a changed key': (
    {},
    (('data.files', 'a.txt'), ('mesh.data', '1')),
    '--config.data.files=a.txt',
  ),
}


@pytest.mark.parametrize('case', TEXTS)
def test_a_model_recovers_on_the_text_that_it_was_calibrated_on(
  case, monkeypatch
):
  """A new run would else take the text of the default."""
  data = DataConfig(mixture='synthetic')
  monkeypatch.setattr(
    compression_command.restore, 'run_of', lambda _: Run(data=data)
  )
  flags, overrides, words = TEXTS[case]
  args = types.SimpleNamespace(**{
    'workdir': 'runs/full',
    'files': None,
    'mixture': None,
    **flags,
  })
  text = compression_command.text_of(args, overrides)
  line = compression_command.in_words('new', ABOUT, text)[3]
  found = [word for word in line.split(' --') if word.startswith('config.data')]
  assert [f'--{word}' for word in found] == ([words] if words else [])


TRAINED = sorted(name for name, method in METHODS.items() if method.training)


@pytest.mark.parametrize('name', TRAINED)
def test_the_training_of_a_method_is_one_that_runs(name, tmp_path):
  """The command that follows a compression is taken as it is printed."""
  folder = workdirs.make(tmp_path / 'small', MODEL)
  run = config.load(
    f'{ROOT}/configs/hf/continue.py:{folder}', METHODS[name].training
  )
  assert run.model.moe.low_rank


REPEATED = [
  (True, '1.0 MB of these are copies of experts that a group shares'),
  (False, '1.0 MB of these are zeros, in places for experts that a layer does'),
]


@pytest.mark.parametrize(('is_shared', 'words'), REPEATED)
def test_bytes_that_say_nothing_new_are_explained(is_shared, words):
  steps = ABOUT['steps'] | {'shared_router': is_shared}
  about = ABOUT | {'steps': steps, 'repeated_bytes': 10**6}
  assert words in compression_command.in_words('new', about)[0]
