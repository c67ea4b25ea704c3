"""Keeps compiled programs in a folder, for tests that compile them often."""

import contextlib
import os

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

# Programs of all sizes, however fast they were compiled. Without XLA's own
# caches (of GPUs), whose path JAX 0.10 has in the names of the programs: they
# would not be found in a copy of the folder.
KEEP_ALL = {
  'jax_persistent_cache_enable_xla_caches': 'none',
  'jax_persistent_cache_min_compile_time_secs': 0,
  'jax_persistent_cache_min_entry_size_bytes': -1,
}


@contextlib.contextmanager
def kept(folder):
  """Programs that this process and its children compile are kept there."""
  wanted = {'jax_compilation_cache_dir': os.fspath(folder), **KEEP_ALL}
  before = {name: getattr(jax.config, name) for name in wanted}
  with pytest.MonkeyPatch.context() as patch:
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
