"""Processes of a sweep, with a stand-in that is quick to start."""

import os

import pytest

from moejax.core import exits
from moejax.sweep import pool

# It answers as sweep_worker does, after what the job's config says.
STAND_IN = """
import json, os, pathlib, signal, sys, time
for line in sys.stdin:
  job = json.loads(line)
  folder = pathlib.Path(job['folder'])
  if job['config'] == 'dies':
    (folder / 'log.txt').write_text('before\\nlast words\\n\\n')
    os.kill(os.getpid(), signal.SIGKILL)
  if job['config'] == 'waits':
    sys.stdin.read()  # until it is closed
    print(json.dumps({'code': 75, 'seconds': 1.0}), flush=True)
    break
  if job['config'] == 'together':  # the other one must be at work as well
    (folder / job['name']).touch()
    deadline = time.monotonic() + 30
    while len(list(folder.glob('pair*'))) < 2 and time.monotonic() < deadline:
      time.sleep(0.01)
  message = f'{os.getpid()} {sys.argv[1]} {os.environ["OWN"]}'
  print(json.dumps({'code': 0, 'message': message}), flush=True)
"""


@pytest.fixture
def work(tmp_path, monkeypatch):
  """Does jobs, given as {name: config}; what happened, in its order."""
  script = tmp_path / 'stand_in.py'
  script.write_text(STAND_IN)
  monkeypatch.setattr(pool, 'WORKER', (str(script),))
  happened = []

  def run(jobs, processes, started=lambda job: None):
    def begin(job):
      happened.append(job.name)
      started(job)

    pool.run(
      [pool.Job(n, c, [], str(tmp_path)) for n, c in jobs.items()],
      processes,
      {**os.environ, 'OWN': 'given'},
      begin,
      lambda job, answer: happened.append((job.name, answer)),
    )

  run.happened = happened
  return run


def _answers(happened):
  return {e[0]: e[1] for e in happened if isinstance(e, tuple)}


def test_one_process_does_all_in_their_order(work):
  work({'a': 'ok', 'b': 'ok', 'c': 'ok'}, 1)
  order = [e if isinstance(e, str) else e[0] * 2 for e in work.happened]
  assert order == ['a', 'aa', 'b', 'bb', 'c', 'cc']
  messages = {a.message for a in _answers(work.happened).values()}
  (message,) = messages  # the same process, with the environment
  assert message.endswith(' given')


def test_two_work_at_a_time_each_on_its_cores(work):
  work({'pair1': 'together', 'pair2': 'together', 'last': 'ok'}, 2)
  assert work.happened[:2] == ['pair1', 'pair2']
  words = [a.message.split() for a in _answers(work.happened).values()]
  assert len(words) == 3
  assert len({pid for pid, _, _ in words}) == 2
  want = pool.shares(2, pool.cores())
  texts = {f'--cores={",".join(map(str, own))}' for own in want}
  assert {cores for _, cores, _ in words} == texts


def test_a_process_that_dies_fails_its_run_alone(work):
  work({'a': 'ok', 'bad': 'dies', 'b': 'ok'}, 1)
  found = _answers(work.happened)
  assert found['bad'].code == exits.BUG
  assert found['bad'].message == (
    'the process was ended by SIGKILL; last words'
  )
  assert (found['a'].code, found['b'].code) == (0, 0)
  assert found['a'].message != found['b'].message  # a new process


def test_ctrl_c_waits_for_what_is_running_and_begins_nothing_more(work):
  def started(job):
    if job.name == 'b':
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    work({'a': 'waits', 'b': 'waits', 'c': 'ok'}, 2, started)
  # b was not handed over yet.
  assert work.happened == [
    'a',
    'b',
    ('a', pool.Answer(exits.INTERRUPTED, seconds=1.0)),
  ]


def test_shares_of_cores():
  assert pool.shares(2, [0, 1, 2, 3, 4]) == [[0, 1], [2, 3, 4]]
  assert pool.shares(3, [4, 6]) == [[4], [4], [6]]
  assert pool.shares(1, [0, 1]) == [[0, 1]]
