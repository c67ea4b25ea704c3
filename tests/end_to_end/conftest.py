"""What tests of the whole command share."""

import contextlib
import types

import jax
import pytest
from helpers import own_text
from jax.experimental.compilation_cache import compilation_cache

# Every command compiles its programs anew, the same ones in all these tests.
KEEP_ALL = {
  'jax_persistent_cache_min_compile_time_secs': 0,
  'jax_persistent_cache_min_entry_size_bytes': -1,
}


@contextlib.contextmanager
def _kept(folder):
  """Compiled programs and packed text are kept, for this process and others."""
  wanted = {'jax_compilation_cache_dir': str(folder / 'compiled'), **KEEP_ALL}
  before = {name: getattr(jax.config, name) for name in wanted}
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('MOEJAX_CACHE', str(folder / 'cache'))
    for name, value in wanted.items():
      jax.config.update(name, value)
      patch.setenv(name.upper(), str(value))
    compilation_cache.reset_cache()
    try:
      yield
    finally:
      for name, value in before.items():
        jax.config.update(name, value)
      compilation_cache.reset_cache()


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
