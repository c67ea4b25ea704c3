"""What tests of the whole command share."""

import os
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


@pytest.fixture(scope='session')
def compiled(tmp_path_factory):
  """A folder for compiled programs."""
  return tmp_path_factory.mktemp('compiled')


@pytest.fixture(scope='module')
def compiled_once(compiled):
  """Compiled programs are kept on disk, for this process and those below."""
  wanted = {'jax_compilation_cache_dir': str(compiled), **KEEP_ALL}
  before = {name: getattr(jax.config, name) for name in wanted}
  with pytest.MonkeyPatch.context() as patch:
    for name, value in wanted.items():
      jax.config.update(name, value)
      patch.setenv(name.upper(), str(value))
    compilation_cache.reset_cache()
    yield
  for name, value in before.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()


@pytest.fixture(scope='module')
def finished(compiled_once, tmp_path_factory):
  """A run on own text that was never stopped; its records are shared."""
  folder = tmp_path_factory.mktemp('own')
  text = own_text.write_stories(folder / 'stories.jsonl')
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('MOEJAX_CACHE', str(folder / 'cache'))
    flags = own_text.flags(text, folder / 'run')
    ended = own_text.call(*flags)
    assert ended.code == 0, ended
    yield types.SimpleNamespace(
      text=text,
      flags=flags,
      workdir=folder / 'run',
      out=ended.out,
      environment=dict(os.environ),
    )
