"""What tests of the whole command share."""

import json
import shutil
import types

import filelock
import pytest
from helpers import own_text, programs


def _train(folder):
  """A run on own text; it keeps its compiled programs and packed text."""
  text = own_text.write_stories(folder / 'stories.jsonl')
  flags = own_text.flags(text, folder / 'run')
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('MOEJAX_CACHE', str(folder / 'cache'))
    with programs.kept(folder / 'compiled'):
      ended = own_text.call(*flags)
  assert ended.code == 0, ended
  return {'flags': flags, 'out': ended.out}


@pytest.fixture(scope='session')
def _straight(tmp_path_factory, worker_id):
  """Trained by the first process of pytest that asks for it, for all."""
  folder = tmp_path_factory.getbasetemp()
  if worker_id != 'master':
    folder = folder.parent  # a process of pytest-xdist has a folder in it
  folder /= 'finished'
  ended = folder / 'ended.json'
  with filelock.FileLock(folder.with_suffix('.lock')):
    if not ended.exists():
      shutil.rmtree(folder, ignore_errors=True)  # of one that failed
      folder.mkdir()
      ended.write_text(json.dumps(_train(folder)))
  return types.SimpleNamespace(
    text=folder / 'stories.jsonl',
    workdir=folder / 'run',
    **json.loads(ended.read_text()),
  )


@pytest.fixture(scope='session')
def _own_compiled(_straight, tmp_path_factory):
  """A copy, for JAX may read a program that another process is writing."""
  return shutil.copytree(
    _straight.workdir.parent / 'compiled',
    tmp_path_factory.mktemp('own') / 'compiled',
  )


@pytest.fixture(scope='module')
def finished(_straight, _own_compiled):
  """A run on own text that was never stopped; others here compile fast.

  No test changes its files. Every command compiles its programs anew, the same
  ones in all these tests.
  """
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('MOEJAX_CACHE', str(_straight.workdir.parent / 'cache'))
    with programs.kept(_own_compiled):
      yield _straight
