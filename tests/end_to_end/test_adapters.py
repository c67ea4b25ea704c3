"""A run with adapters through the real command, in three steps."""

import json

import jax
import pytest
from helpers import own_text

from moejax.core import trees
from moejax.run import restore, trained

STEPS = 3
FLAGS = (
  '--config.model.moe.num_experts=0',  # quick to compile
  '--config.data.chat.template=deepseek',
  '--config.data.sequence_length=64',
  '--config.data.validation_fraction=0.1',
  '--config.opt.peak_lr=0.03',
  '--config.opt.schedule.name=constant',
  '--config.train.lora.rank=4',
  f'--config.train.steps={STEPS}',
  f'--config.train.eval_every={STEPS}',
  '--config.report.samples=false',
  '--config.report.page=false',
  '--config.report.eval_batches=1',
)


@pytest.mark.soak
def test_adapters_are_trained_saved_and_added(tmp_path, monkeypatch):
  monkeypatch.setenv('MOEJAX_CACHE', str(tmp_path / 'cache'))
  talks = [
    {
      'messages': [
        {'role': 'user', 'content': f'{n}'},
        {'role': 'assistant', 'content': 'ok ok.'},
      ]
    }
    for n in range(40)
  ]
  (tmp_path / 'talks.json').write_text(json.dumps(talks))
  workdir = tmp_path / 'run'
  base = [x for x in own_text.FLAGS if '.moe.' not in x and 'steps=' not in x]
  call = [
    *base,
    *FLAGS,
    f'--config.data.conversations={tmp_path / "talks.json"}',
    f'--workdir={workdir}',
  ]
  ended = own_text.call(*call)
  assert (ended.code, ended.err) == (0, [])
  assert any(line.startswith('Adapters: ') for line in ended.out)
  rows = own_text.records(workdir)
  losses = [row['loss'] for row in rows if 'loss' in row]
  assert len(losses) == STEPS
  assert losses[-1] < losses[0]
  # Evaluations read the sum: the report's loss is that of the run.
  (domain,) = own_text.report(workdir)['domains'].values()
  (row,) = (row for row in rows if 'eval/loss' in row)
  assert domain['loss'] == row['eval/loss']
  assert domain['loss'] < losses[0]
  # A checkpoint has the adapters alone; whoever reads weights gets the sum.
  own = jax.device_get(trees.leaves(restore.state(str(workdir)).weights))
  assert all(path.endswith(('/a', '/b')) for path in own)
  assert all(x.any() for x in own.values())
  model = trained.open_trained(str(workdir)).model
  weights, step = restore.weights(model, str(workdir), print)
  assert step == STEPS
  assert trees.leaves(weights).keys() == trees.leaves(model.shapes).keys()
