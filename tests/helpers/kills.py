"""Runs that are killed and resumed until done, against one never stopped."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading

import numpy as np

from helpers import own_text
from moejax.core import exits, trees
from moejax.run import restore

KILLED = -signal.SIGKILL
STEPS = 8
FLAGS = (
  *own_text.FLAGS,
  '--config.model.width=32',
  '--config.train.batch_size=8',
  # Evaluations and saves are at different steps.
  f'--config.train.steps={STEPS}',
  '--config.train.checkpoint_every=2',
  '--config.train.eval_every=3',
  '--config.train.keep_checkpoints=2',
  '--config.report.samples=false',
  '--config.report.eval_batches=1',
)
# Dispatcher -> number of devices, and flags.
DISPATCHERS = {
  'dropless': (1, ('--config.model.moe.router=top_k',)),
  # Its router draws random numbers at every step.
  'capacity': (
    1,
    (
      '--config.model.moe.router=gshard',
      '--config.model.moe.dispatcher=capacity',
    ),
  ),
  'all_to_all': (
    8,
    (
      '--config.mesh.data=2',
      '--config.mesh.expert=4',
      '--config.model.moe.expert_parallel=all_to_all',
    ),
  ),
}


class Server:
  """Starts training processes, each in a second."""

  def __init__(self, folder, flags=''):
    """Args are a folder for the output of processes, and flags of XLA."""
    self.folder = pathlib.Path(folder)
    self._process = subprocess.Popen(
      [sys.executable, '-m', 'helpers.killed_run'],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      cwd=own_text.ROOT,
      env={
        **os.environ,
        'PYTHONPATH': f'{own_text.ROOT}:{own_text.ROOT / "tests"}',
        'JAX_PLATFORMS': 'cpu',
        'XLA_FLAGS': flags,
        'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
        'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
      },
    )
    self.runs = 0

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._process.stdin.close()
    self._process.wait(60)

  def run(self, flags, *, place=None, after_s=None, **settings):
    """One process, to its end.

    Args:
      flags: of the command.
      place: (name, n), the place where it kills itself, the n-th time.
      after_s: seconds after which this process kills it.
      settings: `command`, train or convert; `devices`, the number of fake
        devices; `jax`, settings of JAX by name.

    Returns:
      Its exit code and what it printed.
    """
    self.runs += 1
    path = self.folder / f'log-{self.runs}.txt'
    job = {
      'command': 'train',
      'flags': list(flags),
      'devices': 1,
      'place': place,
      'log': str(path),
      'jax': {},
      **settings,
    }
    self._process.stdin.write(json.dumps(job) + '\n')
    self._process.stdin.flush()
    pid = int(self._process.stdout.readline())
    timer = None
    if after_s is not None:
      timer = threading.Timer(after_s, _kill, [pid])
      timer.start()
    code = int(self._process.stdout.readline())
    if timer is not None:
      timer.cancel()
    return code, path.read_text()


def _kill(pid):
  with contextlib.suppress(ProcessLookupError):  # it was faster
    os.kill(pid, signal.SIGKILL)


def flags(text, dispatcher, workdir, cache, *more):
  """The flags of a run, with a data cache of its own."""
  return own_text.merged((
    *FLAGS,
    *DISPATCHERS[dispatcher][1],
    f'--config.data.files={text}',
    f'--config.data.cache_dir={cache}',
    f'--workdir={workdir}',
    *more,
  ))


def straight(server, text, dispatcher, folder, *more):
  """The workdir of a run that is never stopped."""
  workdir = folder / f'{dispatcher}-straight'
  chosen = flags(text, dispatcher, workdir, folder / 'cache-straight', *more)
  code, out = server.run(chosen, devices=DISPATCHERS[dispatcher][0])
  assert code == exits.DONE, out
  return workdir


def killed(server, text, dispatcher, workdir, places, *more):
  """Starts, is killed at each place in turn, then runs to its end."""
  chosen = flags(
    text, dispatcher, workdir, workdir.with_name(f'{workdir.name}-cache'), *more
  )
  devices = DISPATCHERS[dispatcher][0]
  for place in places:
    code, out = server.run(chosen, devices=devices, place=place)
    assert code == KILLED, f'{place} was not reached: {out}'
  code, out = server.run(chosen, devices=devices)
  assert code == exits.DONE, out
  return out


def state(workdir):
  """Every array of the newest checkpoint by its path: weights with router
  biases, moments, counters."""
  restored = restore.state(str(workdir))
  return {k: np.asarray(x) for k, x in trees.leaves(restored).items()}


def assert_equal(a, b):
  """Two workdirs are equal to the bit, but for what a clock measured.

  Both must have a router state that training has changed.
  """
  # As text: a NaN is not equal to itself.
  assert repr(own_text.records(a)) == repr(own_text.records(b))
  first, second = state(a), state(b)
  assert any('router_state/' in name and np.any(x) for name, x in first.items())
  assert first.keys() == second.keys()
  for name, value in first.items():
    assert value.tobytes() == second[name].tobytes(), name
  same = own_text.report(a)
  assert own_text.report(b) == {**same, 'workdir': str(b)}
