"""What W&B and MLflow are called with, by modules in their place.

The real packages are not needed, and their servers are not called.
"""

import sys
import types

import pytest
from etils import epath

from moejax.train import loggers


class Calls:
  """An object whose methods record their calls and return what is set."""

  def __init__(self, **answers):
    self.calls = []
    self.answers = answers

  def __getattr__(self, name):
    def call(*args, **keys):
      self.calls.append((name, args, keys))
      return self.answers.get(name)

    return call

  def of(self, name):
    return [(args, keys) for n, args, keys in self.calls if n == name]


@pytest.fixture
def place(tmp_path):
  flat = {f'k{i}': i for i in range(150)} | {'long': 'x' * 7000}
  folder = epath.Path(tmp_path / 'my_run')
  return loggers.Place(folder, 2, {'train': {'steps': 2}}, flat, print)


@pytest.fixture
def wandb(monkeypatch):
  for name in ('WANDB_MODE', 'WANDB_BASE_URL'):
    monkeypatch.delenv(name, raising=False)
  module = types.ModuleType('wandb')
  module.run = Calls()
  module.run.id = 'abc'
  module.known = False
  module.inits, module.prompts = [], []
  module.login = lambda prompt: module.prompts.append(prompt) or module.known
  module.init = lambda **keys: module.inits.append(keys) or module.run
  module.Settings = dict
  monkeypatch.setitem(sys.modules, 'wandb', module)
  return module


@pytest.fixture
def mlflow(monkeypatch):
  monkeypatch.delenv('MLFLOW_TRACKING_URI', raising=False)
  module = types.ModuleType('mlflow')
  run = types.SimpleNamespace(info=types.SimpleNamespace(run_id='r1'))
  module.client = Calls(create_run=run, create_experiment='e1')
  module.uris = []
  module.MlflowClient = lambda tracking_uri: (
    module.uris.append(tracking_uri) or module.client
  )
  module.entities = types.SimpleNamespace(
    Param=lambda *a: a, Metric=lambda *a: a
  )
  monkeypatch.setitem(sys.modules, 'mlflow', module)
  return module


def train(logger, place, after, steps):
  writer = logger.open(place)
  writer.truncate_after(after)
  for step in steps:
    writer.write(step, {'loss': 0.5, 'data/my+text/tokens': 8})
  writer.close()


def test_wandb_without_a_key_writes_to_the_workdir(wandb, place):
  train(loggers.LOGGERS['wandb'](), place, 0, [1])
  (init,) = wandb.inits
  assert (init['mode'], init['project']) == ('offline', 'moejax')
  assert init['dir'] == str(place.folder / 'loggers')
  assert (init['id'], init['resume']) == (None, None)
  assert init['config'] == {'train': {'steps': 2}}
  assert init['settings']['console'] == 'off'
  assert wandb.prompts == [False]  # a run may not wait for an answer
  values = {'train/loss': 0.5, 'data/my+text/tokens': 8.0}
  assert wandb.run.of('log') == [((values,), {'step': 1})]
  assert wandb.run.of('finish') == [((), {'exit_code': 1})]


def test_wandb_resumes_its_run(wandb, place):
  wandb.known = True
  logger = loggers.LOGGERS['wandb'](entity='team')
  train(logger, place, 0, [1])
  train(logger, place, 1, [2])
  first, second = wandb.inits
  assert (first['mode'], first['entity']) == ('online', 'team')
  assert (second['id'], second['resume']) == ('abc', 'allow')
  assert wandb.run.of('finish')[-1] == ((), {'exit_code': 0})


@pytest.mark.parametrize('where', ['config', 'environment'])
def test_the_mode_of_wandb_may_be_said(where, wandb, place, monkeypatch):
  wandb.known = True
  logger = loggers.LOGGERS['wandb']()
  if where == 'config':
    logger = loggers.LOGGERS['wandb'](mode='offline')
  else:
    monkeypatch.setenv('WANDB_MODE', 'offline')
  train(logger, place, 0, [1])
  assert [init['mode'] for init in wandb.inits] == ['offline']
  assert wandb.prompts == []


def test_mlflow_has_a_database_in_the_workdir(mlflow, place):
  train(loggers.LOGGERS['mlflow'](), place, 0, [1])
  folder = place.folder / 'loggers'
  assert mlflow.uris == [f'sqlite:///{folder}/mlflow.db']
  client = mlflow.client
  ((args, _),) = client.of('create_experiment')
  assert args == ('moejax', f'file://{folder}/mlflow_artifacts')
  assert client.of('create_run') == [(('e1',), {'run_name': 'my_run'})]
  batches = [keys for _, keys in client.of('log_batch')]
  params = [p for keys in batches for p in keys.get('params', ())]
  assert len(params) == 151
  assert max(len(keys.get('params', ())) for keys in batches) == 100
  assert params[0] == ('k0', '0')
  assert params[-1] == ('long', 'x' * 6000)
  (metrics,) = [keys['metrics'] for keys in batches if 'metrics' in keys]
  found = [(name, value, step) for name, value, _, step in metrics]
  assert found == [('train/loss', 0.5, 1), ('data/my_text/tokens', 8.0, 1)]
  assert client.of('set_terminated') == [(('r1', 'KILLED'), {})]


def test_mlflow_resumes_its_run(mlflow, place):
  logger = loggers.LOGGERS['mlflow'](uri='http://host:5000')
  train(logger, place, 0, [1])
  train(logger, place, 1, [2])
  assert mlflow.uris == ['http://host:5000'] * 2
  client = mlflow.client
  assert len(client.of('create_run')) == 1
  assert client.of('update_run') == [(('r1',), {'status': 'RUNNING'})]
  ends = [args for args, _ in client.of('set_terminated')]
  assert ends == [('r1', 'KILLED'), ('r1', 'FINISHED')]
  assert client.of('create_experiment')[0][0] == ('moejax', None)
