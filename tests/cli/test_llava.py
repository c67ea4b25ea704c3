"""The command of LLaVA folders: contents, and answers about images."""

import json
import re
from unittest import mock

import pytest
from helpers import generated_cases
from helpers import llava as helper

from moejax.cli import llava
from moejax.core import errors
from moejax.evals import image_engine


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return helper.speaking(tmp_path_factory.mktemp('hf') / 'clip')


def test_inspect_names_the_parts(folder, capsys):
  llava.main(['inspect', str(folder)])
  said = capsys.readouterr().out
  assert 'holds a LLaVA of 31,956 parameters' in said
  assert 'a clip_vision_model of 3 layers of width 24' in said
  assert 'Projector: 24 to 32 features, gelu' in said
  assert 'An image takes 4 of its 64 tokens' in said


def test_answer_asks_the_engine_of_the_folder(folder, capsys):
  asked = []

  class Engine:
    template = 'of the model'

    def generate(self, prompts, sampling, seed):
      asked.append((*prompts, sampling.temperature, seed))
      return ['a cat']

  with mock.patch.object(image_engine, 'open_folder') as opened:
    opened.return_value = Engine()
    llava.main([
      'answer', str(folder), '--images=photos', '--image=b.png',
      '--image=a/cat.png', '--prompt=<image> or <image>?', '--seed=3',
      '--max_new_tokens=7', '--temperature=0.5',
    ])  # fmt: skip
  assert opened.call_args.args[0] == str(folder)
  assert capsys.readouterr().out == 'a cat\n'
  ((prompt, temperature, seed),) = asked
  assert (prompt.text, prompt.max_tokens) == ('<image> or <image>?', 7)
  places = [(picture.folder, picture.name) for picture in prompt.images]
  assert places == [('photos', 'b.png'), ('photos', 'a/cat.png')]
  assert (temperature, seed) == (0.5, 3)


def test_evaluate_asks_the_tasks_and_writes_their_scores(
  folder, tmp_path, capsys
):
  row = {'image': 'a.png', 'answer': 'yes', 'category': 'random'}
  rows = [{**row, 'question': f'Is there a {x}?'} for x in ('cat', 'dog')]
  generated_cases.write_rows(tmp_path, 'pope', 'test', rows)
  out = tmp_path / 'scores.json'
  with mock.patch.object(image_engine, 'open_folder') as opened:
    opened.return_value = generated_cases.Writer(['Yes', 'no'])
    llava.main([
      'evaluate', str(folder), f'--data={tmp_path}', '--tasks=pope',
      f'--out={out}',
    ])  # fmt: skip
  said = capsys.readouterr().out
  assert re.search(r'\| pope +\| acc +\| +0 \| +2 \| +50\.0 ± 50\.0', said)
  assert f'| {folder} |' in said.split('\n')[0]
  found = json.loads(out.read_text())['pope']
  assert (found['means']['acc'], found['means']['yes_ratio']) == (0.5, 0.5)
  assert found['values']['acc'] == [1.0, 0.0]


def test_flags_that_cannot_be_used_are_one_line(folder):
  with pytest.raises(errors.InputError, match='asks nothing'):
    llava.main(['answer', str(folder), '--prompt= '])
  with pytest.raises(errors.InputError, match='is not UTF-8: character 1 is'):
    llava.main(['answer', str(folder), '--prompt=a\udcff'])
  with pytest.raises(errors.InputError, match='has no config'):
    llava.main(['inspect', str(folder), '--config.model.width=8'])
  with pytest.raises(errors.InputError, match='unknown task of suite vision'):
    llava.main(['evaluate', str(folder), '--data=.', '--tasks=popes'])
