"""Compiled programs in a folder: where it is, and what is damaged in it."""

import os
import zlib

import jax
import jax.numpy as jnp
import pytest
from etils import epath
from jax.experimental.compilation_cache import compilation_cache

from moejax.core import compile_cache


@pytest.fixture
def unset():
  """JAX has been given no folder, and forgets those of the test."""
  before = jax.config.jax_compilation_cache_dir
  jax.config.update('jax_compilation_cache_dir', None)
  yield
  jax.config.update('jax_compilation_cache_dir', before)
  compilation_cache.reset_cache()


def test_the_folder(tmp_path, unset):
  folder = compile_cache.folder_of
  assert folder('', tmp_path) == epath.Path(tmp_path) / 'compile_cache'
  assert folder('/x/y', tmp_path) == epath.Path('/x/y')
  assert folder('none', tmp_path) is None
  jax.config.update('jax_compilation_cache_dir', '/of/the/user')
  assert folder('', tmp_path) is None
  assert folder('/x/y', tmp_path) == epath.Path('/x/y')


def test_none_means_none_whatever_jax_has_been_given(tmp_path, unset):
  jax.config.update('jax_compilation_cache_dir', '/of/the/user')
  with compile_cache.kept('none', tmp_path):
    assert jax.config.jax_compilation_cache_dir is None
  assert jax.config.jax_compilation_cache_dir == '/of/the/user'
  with compile_cache.kept('', tmp_path):
    assert jax.config.jax_compilation_cache_dir == '/of/the/user'


def test_damaged_programs_are_removed_and_whole_ones_stay(tmp_path):
  whole = zlib.compress(os.urandom(3000))
  flipped = bytearray(whole)
  flipped[1500] ^= 1
  content = {
    'whole-cache': whole,
    'cut-cache': whole[:2000],
    'empty-cache': b'',
    'flipped-cache': bytes(flipped),
    'other-cache': b'\x28\xb5\x2f\xfd' + b'zstandard has its own',
    'x-atime': b'12345678',
  }
  for name, data in content.items():
    (tmp_path / name).write_bytes(data)
  told = []
  compile_cache.drop_damaged(epath.Path(tmp_path), told.append)
  assert sorted(os.listdir(tmp_path)) == [
    'other-cache',
    'whole-cache',
    'x-atime',
  ]
  assert len(told) == 3
  assert f'compiled program {tmp_path}/cut-cache is damaged; it is ' in told[0]
  compile_cache.drop_damaged(epath.Path(tmp_path) / 'none', told.append)


def programs(folder):
  return sorted(folder.glob('*-cache'))


@pytest.fixture
def keep_all(unset):
  names = (
    'jax_persistent_cache_min_compile_time_secs',
    'jax_persistent_cache_min_entry_size_bytes',
  )
  before = [getattr(jax.config, name) for name in names]
  for name, value in zip(names, (0, -1), strict=True):
    jax.config.update(name, value)
  yield
  for name, value in zip(names, before, strict=True):
    jax.config.update(name, value)


def compiled(workdir, told):
  """A result of a program that is read, or compiled anew."""
  jax.clear_caches()
  with compile_cache.kept('', workdir, told.append):
    x = jnp.linspace(-3, 3, 1000).reshape(10, 100)
    f = jax.jit(lambda x: jax.nn.softmax(jnp.sin(x) @ x.T).sum(axis=0))
    return bytes(jax.device_get(f(x)))


def test_a_corrupt_program_is_made_again_with_the_same_result(
  tmp_path, keep_all
):
  told = []
  want = compiled(tmp_path, told)
  folder = tmp_path / 'compile_cache'
  names = [path.name for path in programs(folder)]
  assert names
  times = [path.stat().st_mtime_ns for path in programs(folder)]
  assert compiled(tmp_path, told) == want
  assert [p.stat().st_mtime_ns for p in programs(folder)] == times  # read
  for path in programs(folder):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 8
    path.write_bytes(data)
  assert told == []
  assert compiled(tmp_path, told) == want
  assert len(told) == len(names)
  assert [path.name for path in programs(folder)] == names


def test_a_folder_of_its_own_though_jax_uses_another(tmp_path, keep_all):
  other, own = tmp_path / 'other', tmp_path / 'own'
  jax.config.update('jax_compilation_cache_dir', str(other))
  for folder in (None, own, None):
    jax.clear_caches()
    x = jnp.linspace(0, 1, 7 if folder else 9)
    if folder is None:
      jax.jit(lambda x: jnp.tan(x))(x)
      continue
    before = programs(other)
    with compile_cache.kept(str(own), tmp_path):
      jax.jit(lambda x: jnp.cos(x) * 2)(x)
    assert programs(own)
    assert programs(other) == before
