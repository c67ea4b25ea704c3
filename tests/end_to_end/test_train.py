"""The real command, as a process: trains, stops, goes on, says it is done."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from helpers import kills, own_text

from moejax.core import compile_cache, log, trees
from moejax.run import restore, trained
from moejax.train.checkpoint import Checkpointer

ROOT = pathlib.Path(__file__).parents[2]
STEPS = 24
# Every kind of state that a stop could lose: noise of GShard's router, a bias
# of its selection, micro-batches, a checkpoint every few steps.
FLAGS = (
  '--config=configs/tiny.py:tiny',
  '--config.data.mixture=synthetic',
  '--config.model.moe.router=gshard',
  '--config.model.moe.dispatcher=capacity',
  '--config.model.moe.balance.gshard_aux.coefficient=0.1',
  '--config.model.moe.balance.loss_free.rate=0.01',
  '--config.train.micro_batches=2',
  f'--config.train.steps={STEPS}',
  '--config.train.log_every=1',
  '--config.train.checkpoint_every=4',
  '--config.train.eval_every=8',
  '--config.report.samples=false',
  '--config.report.eval_batches=1',
)


@pytest.fixture(scope='module')
def compiled(tmp_path_factory):
  """Where the first process keeps what it compiles; the environment for it.

  tests/end_to_end/test_kills.py has that it makes no difference.
  """
  return {
    **compile_cache.environment(tmp_path_factory.mktemp('compiled')),
    # One device, and programs that compile four times faster.
    'XLA_FLAGS': '--xla_backend_optimization_level=0',
  }


def _start(flags, environment):
  return subprocess.Popen(
    [sys.executable, '-m', 'moejax.main', *flags],
    cwd=ROOT,
    env={
      **os.environ,
      'PYTHONPATH': str(ROOT),
      'PYTHONUNBUFFERED': '1',
      **environment,
    },
    text=True,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
  )


def _run(flags, environment):
  process = _start(flags, environment)
  out, err = process.communicate(timeout=300)
  return process.returncode, out, err


def _steps(workdir):
  path = workdir / 'metrics.jsonl'
  return [r['step'] for r in log.read(path)] if path.exists() else []


def _wait_for_step(workdir, step, process):
  deadline = time.monotonic() + 200
  while max(_steps(workdir), default=0) < step:
    assert process.poll() is None, process.communicate()
    assert time.monotonic() < deadline
    time.sleep(0.01)


def _flags(workdir):
  return (*FLAGS, f'--workdir={workdir}')


@pytest.fixture(scope='module')
def straight(tmp_path_factory, compiled):
  """A run with every kind of state that was never stopped."""
  workdir = tmp_path_factory.mktemp('straight') / 'run'
  code, out, err = _run(_flags(workdir), compiled)
  assert code == 0, out + err
  return workdir


@pytest.fixture(scope='module')
def in_a_process(finished, tmp_path_factory):
  """The run `finished` as a process, which reads its compiled programs.

  It also keeps weights.
  """
  workdir = tmp_path_factory.mktemp('process') / 'run'
  flags = (
    *own_text.flags(finished.text, workdir),
    '--config.train.keep_checkpoints_at=0,1',
    '--config.train.keep_checkpoints_every=2',
  )
  code, out, err = _run(flags, {})
  assert code == 0, out + err
  return workdir, flags


def _assert_promises(workdir, steps, router, metrics):
  for name in ('config.json', 'versions.json', 'metrics.jsonl', 'report.json'):
    assert (workdir / name).exists()
  assert list((workdir / 'tensorboard').iterdir())
  keys = json.loads((workdir / 'config.json').read_text())
  assert keys['model']['moe']['router']['name'] == router
  assert (
    'jax' in json.loads((workdir / 'versions.json').read_text())['packages']
  )
  records = log.read(workdir / 'metrics.jsonl')
  losses = [r['loss'] for r in records if 'loss' in r]
  assert len(losses) == steps
  assert losses[-1] < losses[0]
  assert metrics <= set(records[0])
  assert any(name.endswith('/loss') for name in records[-1]), records[-1]


def _documented():
  """Patterns of the names in the table of docs/runs.md on metrics."""
  page = (ROOT / 'docs' / 'runs.md').read_text()
  (table,) = re.findall(r'\| metric \| meaning \|\n((?:\|.*\n)+)', page)
  for line in table.splitlines():
    for name in re.findall(r'`([^`]+)`', line.split('|')[1]):
      yield re.sub('[A-Z]{2,}', '[^/]+', name.replace('...', '[a-z0-9_]+'))


@pytest.mark.slow
def test_every_metric_of_a_run_is_documented(in_a_process):
  workdir, _ = in_a_process
  names = {name for r in log.read(workdir / 'metrics.jsonl') for name in r}
  patterns = [*_documented()]
  assert len(patterns) > 30
  unknown = [
    name
    for name in sorted(names - {'step'})
    if not any(re.fullmatch(pattern, name) for pattern in patterns)
  ]
  assert unknown == []


@pytest.mark.slow
def test_a_run_leaves_what_it_promises(in_a_process):
  workdir, _ = in_a_process
  metrics = {'moe/load_max', 'data/files/tokens'}
  _assert_promises(workdir, own_text.STEPS, 'top_k', metrics)
  records = log.read(workdir / 'metrics.jsonl')
  tokens = {r['step']: r['data/files/tokens'] for r in records if 'loss' in r}
  per_step = np.diff([*tokens.values()])  # one row of the text has padding
  assert per_step.max() - per_step.min() <= 1
  kept = [*(workdir / 'checkpoints').glob('*/meta.json')]
  assert kept
  for meta in map(json.loads, (path.read_text() for path in kept)):
    assert meta['extra']['tokens'] == {'files': tokens[meta['step']]}


@pytest.mark.soak
def test_a_run_with_every_kind_of_state_leaves_what_it_promises(straight):
  metrics = {'balance/gshard_aux', 'moe/load_max', 'moe/dropped'}
  _assert_promises(straight, STEPS, 'gshard', metrics)


@pytest.mark.slow
def test_a_process_computes_what_a_call_does(in_a_process, finished):
  """To the bit: here the command was called in another process before."""
  kills.assert_equal(finished.workdir, in_a_process[0])


@pytest.mark.slow
def test_the_weights_that_are_kept_are_those_of_the_states(in_a_process):
  workdir = str(in_a_process[0])
  with restore.checkpoints(workdir) as saved:
    assert saved.choose('all') == [0, 1, 2, 4, 6]
  opened = trained.open_trained(workdir)
  kept = Checkpointer(f'{workdir}/kept')
  assert kept.steps() == [0, 1, 2, 4, 6]
  for step in (0, 2, 4, 6):
    if step == 0:
      want = opened.model.init(jax.random.key(opened.run.seed))
    else:
      want, at = opened.weights(str(step), print)
      assert at == step
    like = {'weights': opened.model.shapes}
    found = kept.restore(step, like)[0]['weights']
    for name, leaf in trees.leaves(want).items():
      assert trees.leaves(found)[name].tobytes() == np.asarray(leaf).tobytes()
  _, at = opened.weights('1', print)
  assert at == 1
  size = lambda name: sum(
    x.stat().st_size for x in pathlib.Path(workdir, name).rglob('*')
  )
  # AdamW's state has two numbers for each weight.
  assert size('kept/00000006') < 0.4 * size('checkpoints/00000006')


@pytest.mark.slow
def test_the_same_command_again_says_that_it_is_finished(in_a_process):
  workdir, flags = in_a_process
  before = sorted(p.name for p in workdir.iterdir())
  code, out, err = _run(flags, {})
  assert code == 0, out + err
  assert 'This run is finished' in out
  assert sorted(p.name for p in workdir.iterdir()) == before


@pytest.mark.soak
def test_killed_at_a_random_step_and_resumed_is_bit_equal(
  straight, compiled, tmp_path
):
  workdir = tmp_path / 'run'
  step = int(np.random.default_rng().integers(1, STEPS - 1))
  process = _start(_flags(workdir), compiled)
  _wait_for_step(workdir, step, process)
  process.kill()
  process.communicate()
  assert not (workdir / 'report.json').exists()
  code, out, err = _run(_flags(workdir), compiled)
  assert code == 0, f'killed at step {step}: {out}{err}'
  kills.assert_equal(straight, workdir)


@pytest.mark.soak
def test_sigterm_saves_exits_75_and_resumes_bit_equal(
  straight, compiled, tmp_path
):
  workdir = tmp_path / 'run'
  process = _start(_flags(workdir), compiled)
  _wait_for_step(workdir, 6, process)
  process.send_signal(signal.SIGTERM)
  _, err = process.communicate(timeout=120)
  assert process.returncode == 75, err
  (line,) = [x for x in err.splitlines() if x.startswith('interrupted:')]
  assert 'SIGTERM' in line
  assert 'Run the same command to go on' in line
  stopped_at = max(_steps(workdir))
  assert 6 <= stopped_at < STEPS
  code, out, err = _run(_flags(workdir), compiled)
  assert code == 0, out + err
  assert f'Going on from the checkpoint of step {stopped_at}.' in out
  kills.assert_equal(straight, workdir)
