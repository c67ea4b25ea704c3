import logging
import sys
import types

import pytest

from moejax.train.orbax_noise import Quiet

LOST = 'Task exception was never retrieved'
# As seen when the disk was full: without a spec, a source file or a stack.
OCDBT = (
  "future: <Future finished exception=ValueError('OUT_OF_RANGE: Error writing "
  '"mu/0.0.6.0" in OCDBT database at local file "/run/d/": Failed writing: '
  "Failed to write 53811 bytes to file 13: File too large ')>"
)


@pytest.fixture
def seen(monkeypatch):
  """Messages and lost exceptions that get through."""
  found = []
  handler = logging.Handler()
  handler.emit = lambda record: found.append(record.getMessage())
  monkeypatch.setattr(
    sys, 'unraisablehook', lambda lost: found.append(lost.exc_value)
  )
  for name in ('absl', 'asyncio'):
    # A save that has failed in this process keeps its filter.
    monkeypatch.setattr(logging.getLogger(name), 'filters', [])
    logging.getLogger(name).addHandler(handler)
  yield found
  for name in ('absl', 'asyncio'):
    logging.getLogger(name).removeHandler(handler)


def log(name, text, path='/x/y.py', exc_info=None):
  record = logging.LogRecord(name, logging.ERROR, path, 1, text, (), exc_info)
  logging.getLogger(name).handle(record)


def lose(error):
  sys.unraisablehook(types.SimpleNamespace(exc_value=error))


def raise_from(path):
  """exc_info of an error raised in a file of that name."""
  try:
    code = compile('raise OSError("full")', path, 'exec')
    types.FunctionType(code, {})()
  except OSError:
    return sys.exc_info()


def make_noise():
  log('absl', 'orbax logs', path='/p/orbax/checkpoint/a.py')
  log('asyncio', f'{LOST} <Task /p/orbax/checkpoint/a.py>')
  log('asyncio', LOST, exc_info=raise_from('/p/orbax/checkpoint/a.py'))
  log('asyncio', f"{LOST} <Future OSError('full [tensorstore_spec={{}}')>")
  log('asyncio', f'Future exception was never retrieved {OCDBT}')
  lose(RuntimeError('Event loop is closed'))


def test_orbax_is_not_heard_and_all_others_are(seen):
  quiet = Quiet()
  quiet.start()
  make_noise()
  assert seen == []
  error = RuntimeError('another')
  log('absl', 'of absl')
  log('asyncio', f'{LOST} /p/mine/a.py')
  log('asyncio', LOST, exc_info=raise_from('/p/mine/a.py'))
  log('asyncio', 'slow /p/orbax/checkpoint/a.py')
  lose(error)
  assert seen == [
    'of absl',
    f'{LOST} /p/mine/a.py',
    LOST,
    'slow /p/orbax/checkpoint/a.py',
    error,
  ]
  quiet.stop()
  seen.clear()
  make_noise()
  assert len(seen) == 6


@pytest.mark.parametrize('first', [0, 1])
def test_two_at_once_in_any_order(seen, first):
  quiets = [Quiet(), Quiet()]
  for quiet in quiets:
    quiet.start()
  quiets[first].stop()
  make_noise()
  assert seen == []
  quiets[1 - first].stop()
  make_noise()
  assert len(seen) == 6
