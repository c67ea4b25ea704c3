"""Training on conversations by the real command: answers are learned alone."""

import json
import pathlib

import numpy as np
import pytest
from helpers import own_text, programs

STEPS = 60
ANSWER = 'ok ok.'
# Two runs of a dense model.
FLAGS = (
  '--config.model.moe.num_experts=0',  # quick to compile
  '--config.data.chat.template=deepseek',
  '--config.data.sequence_length=64',
  '--config.data.validation_fraction=0.1',
  '--config.opt.peak_lr=0.03',
  '--config.opt.schedule.name=constant',
  '--config.train.eval_every=1000',
  '--config.train.checkpoint_every=1000',
  f'--config.train.steps={STEPS}',
  '--config.report.samples=false',
  '--config.report.page=false',
  '--config.report.eval_batches=1',
)


def write(path, rows):
  """A JSON list of (question, answer), in the schema of ShareGPT."""
  talks = [
    {
      'conversations': [
        {'from': 'human', 'value': asked},
        {'from': 'gpt', 'value': said},
      ]
    }
    for asked, said in rows
  ]
  path.write_text(json.dumps(talks))


def digits(count=40):
  rng = np.random.default_rng(0)
  return [''.join(map(str, rng.integers(0, 10, 20))) for _ in range(count)]


@pytest.fixture(scope='module')
def losses(tmp_path_factory):
  """Losses of the steps, where digits are asked, and where they answer."""
  folder = tmp_path_factory.mktemp('talks')
  found = []
  with pytest.MonkeyPatch.context() as patch, programs.kept(folder / 'c'):
    patch.setenv('MOEJAX_CACHE', str(folder / 'cache'))
    for name in ('asked', 'said'):
      pairs = [(text, ANSWER) for text in digits()]
      turned = pairs if name == 'asked' else [pair[::-1] for pair in pairs]
      path, workdir = folder / f'{name}.json', folder / name
      write(path, turned)
      base = [x for x in own_text.FLAGS if '.moe.' not in x]
      ended = own_text.call(
        *base,
        *FLAGS,
        f'--config.data.conversations={path}',
        f'--workdir={workdir}',
      )
      assert (ended.code, ended.err) == (0, [])
      rows = own_text.records(pathlib.Path(workdir))
      steps = [row['loss'] for row in rows if 'loss' in row]
      report = own_text.report(workdir)
      (domain,) = report['domains'].values()
      found.append((steps, domain['loss']))
  return found


@pytest.mark.soak
def test_what_is_asked_is_no_target(losses):
  """Random digits are ln 10 = 2.3 nats each, four fifths of such a text."""
  (steps, held_out), _ = losses
  assert len(steps) == STEPS
  assert steps[0] > 5  # ln 259 = 5.6
  assert steps[-1] < 0.1
  assert held_out < 0.1


@pytest.mark.soak
def test_the_whole_answer_is_a_target(losses):
  """20 random digits of 22 targets: no model is below 20 / 22 ln 10 = 2.1."""
  _, (steps, held_out) = losses
  assert 2.05 < steps[-1] < 3
  assert held_out > 2.05
