"""What tests of the whole command share."""

import contextlib
import types

import pytest
from helpers import own_text, programs


@contextlib.contextmanager
def _kept(folder):
  """Compiled programs and packed text are kept, for this process and others.

  Every command compiles its programs anew, the same ones in all these tests.
  """
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('MOEJAX_CACHE', str(folder / 'cache'))
    with programs.kept(folder / 'compiled'):
      yield


@pytest.fixture(scope='session')
def _straight(tmp_path_factory):
  folder = tmp_path_factory.mktemp('own')
  text = own_text.write_stories(folder / 'stories.jsonl')
  flags = own_text.flags(text, folder / 'run')
  with _kept(folder):
    ended = own_text.call(*flags)
  assert ended.code == 0, ended
  return types.SimpleNamespace(
    text=text, flags=flags, workdir=folder / 'run', out=ended.out
  )


@pytest.fixture(scope='module')
def finished(_straight):
  """A run on own text that was never stopped; others here compile fast."""
  with _kept(_straight.workdir.parent):
    yield _straight
