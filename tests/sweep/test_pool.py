"""Processes of a sweep, with a stand-in that is quick to start."""

import pytest
from etils import epath

from moejax.core import exits
from moejax.sweep import devices, grid, pool

# A run that does what its config says.
STAND_IN = """
import os, pathlib, select, signal, sys, time
flags = dict(flag.removeprefix('--').split('=') for flag in sys.argv[1:])
folder = pathlib.Path(flags['workdir'])
if flags['config'] == 'dies':
  print('last words\\n\\n', flush=True)
  os.kill(os.getpid(), signal.SIGKILL)
if flags['config'] == 'fails':
  print('error: so it is')
  sys.exit(2)
if flags['config'] == 'waits':
  # Until it is closed, and not for ever.
  assert select.select([sys.stdin], [], [], 20)[0]
  print('interrupted: at step 3')
  sys.exit(75)
if flags['config'] == 'together':  # the other one must be at work as well
  (folder / 'begun').touch()
  deadline = time.monotonic() + 20
  while len(list(folder.parent.glob('*/begun'))) < 2:
    assert time.monotonic() < deadline
    time.sleep(0.01)
if flags['config'] == 'waits for b':
  log, deadline = folder.parent / 'b' / 'log.txt', time.monotonic() + 20
  while not log.exists() or 'interrupted' not in log.read_text():
    assert time.monotonic() < deadline
    time.sleep(0.01)
  assert not select.select([sys.stdin], [], [], 0.1)[0], 'it was stopped too'
print(os.environ['JAX_COMPILATION_CACHE_DIR'])
print(flags['cores'], flags['config.seed'], os.environ['OWN'])
print('GPUs', os.environ.get('CUDA_VISIBLE_DEVICES'))
"""


@pytest.fixture
def work(tmp_path, monkeypatch):
  """Trains runs of {name: config}; what happened, in its order."""
  script = tmp_path / 'stand_in.py'
  script.write_text(STAND_IN)
  monkeypatch.setattr(pool, 'WORKER', (str(script),))
  monkeypatch.setenv('OWN', 'kept')
  happened = []

  def run(jobs, processes, started=lambda run: None, stops=lambda run: False):
    todo = [
      grid.SweepRun(name, config, {'seed': '3'}, name)
      for name, config in jobs.items()
    ]

    class Work:
      def take(self):
        if not todo:
          return None
        happened.append(todo[0].name)
        started(todo[0])
        return todo.pop(0)

      def ended(self, run, outcome):
        happened.append((run.name, outcome))

      def stops(self, run):
        return stops(run)

    pool.run(Work(), epath.Path(tmp_path), processes)

  run.happened = happened
  run.log = lambda name: (tmp_path / name / pool.LOG).read_text()
  return run


def _outcomes(happened):
  return {e[0]: e[1] for e in happened if isinstance(e, tuple)}


def test_one_at_a_time_they_run_in_their_order(work):
  work({'a': 'ok', 'b': 'fails', 'c': 'ok'}, 1)
  order = [e if isinstance(e, str) else e[0] * 2 for e in work.happened]
  assert order == ['a', 'aa', 'b', 'bb', 'c', 'cc']
  outcomes = _outcomes(work.happened)
  assert (outcomes['a'].code, outcomes['a'].message) == (0, '')
  assert outcomes['a'].seconds > 0
  assert outcomes['b'].code == exits.BAD_INPUT
  assert outcomes['b'].message == 'error: so it is'
  # The log has what it printed: its flags and environment reached it.
  assert ' 3 kept\n' in work.log('a')


def test_two_work_at_a_time_each_on_its_cores(work):
  work({'pair1': 'together', 'pair2': 'together', 'last': 'ok'}, 2)
  assert work.happened[:2] == ['pair1', 'pair2']
  assert {o.code for o in _outcomes(work.happened).values()} == {0}
  own = devices.shares(2, devices.cores())
  shares = {','.join(map(str, cores)) for cores in own}
  names = ('pair1', 'pair2')
  assert {work.log(name).split()[1] for name in names} == shares
  assert work.log('last').split()[1] in shares


def test_a_process_that_dies_fails_its_run_alone(work):
  work({'a': 'ok', 'bad': 'dies', 'b': 'ok'}, 1)
  outcomes = _outcomes(work.happened)
  assert outcomes['bad'].code == exits.BUG
  assert outcomes['bad'].message == (
    'the process was ended by SIGKILL; last words'
  )
  assert (outcomes['a'].code, outcomes['b'].code) == (0, 0)


def test_ctrl_c_waits_for_what_is_running_and_begins_nothing_more(work):
  def started(job):
    if job.name == 'b':
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    work({'a': 'waits', 'b': 'waits', 'c': 'ok'}, 2, started)
  # b had no process yet.
  assert work.happened[:2] == ['a', 'b']
  (name, outcome), *rest = work.happened[2:]
  assert (name, outcome.code, rest) == ('a', exits.INTERRUPTED, [])


def test_programs_are_kept_for_all_runs_unless_told_where(
  work, monkeypatch, tmp_path
):
  name = 'JAX_COMPILATION_CACHE_DIR'
  monkeypatch.delenv(name, raising=False)
  work({'a': 'ok'}, 1)
  assert work.log('a').splitlines()[0] == str(tmp_path / 'compile_cache')
  monkeypatch.setenv(name, '/mine')
  work({'b': 'ok'}, 1)
  assert work.log('b').splitlines()[0] == '/mine'


def test_a_run_that_is_stopped_ends_alone(work):
  stopped = []

  def stops(run):
    if run.name == 'b':
      stopped.append(run.name)
    return run.name == 'b'

  # Without the end of its input `b` would wait for ever, and `a` waits for it.
  work({'a': 'waits for b', 'b': 'waits'}, 2, stops=stops)
  outcomes = _outcomes(work.happened)
  assert stopped
  assert outcomes['b'].code == exits.INTERRUPTED
  assert outcomes['a'].code == 0


def test_a_process_sees_its_devices_alone(work, monkeypatch):
  monkeypatch.setenv('JAX_PLATFORMS', 'cuda')
  monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '4,6')
  work({'pair1': 'together', 'pair2': 'together'}, 2)
  shown = {work.log(name).splitlines()[-1] for name in ('pair1', 'pair2')}
  assert shown == {'GPUs 4', 'GPUs 6'}
