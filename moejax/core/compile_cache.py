"""JAX's persistent compilation cache: a folder of compiled programs.

With it, a run that resumes after a kill, and the runs of one shape in a sweep,
need not compile their programs again. JAX writes a file for each program and
names it by a hash of the program, the compiler and its flags. A program from
the cache computes the same as a newly compiled one, to the bit.
"""

import contextlib
import os
import zlib
from collections.abc import Callable, Iterator, Mapping

import jax
from etils import epath
from jax.experimental.compilation_cache import compilation_cache

from moejax.core import files

FOLDER, NONE = 'compile_cache', 'none'
SETTING = 'jax_compilation_cache_dir'
# Environment under which JAX keeps every program. By default JAX keeps the
# programs that took a second or more to compile.
KEEP_ALL = {
  'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
  'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
}


def environment(folder: epath.PathLike) -> Mapping[str, str]:
  """Environment variables of a new process that caches every program there."""
  return {SETTING.upper(): os.path.abspath(folder), **KEEP_ALL}


def folder_of(wanted: str, workdir: epath.PathLike) -> epath.Path | None:
  """The cache folder that a run sets; None if it sets none.

  A run sets none if `wanted` is 'none', or if `wanted` is '' and JAX already
  has a cache folder, from the environment or a sweep.

  Args:
    wanted: a folder, 'none', or '' for a folder in the workdir.
    workdir: workdir of the run.
  """
  if wanted == NONE:
    return None
  if wanted:
    return epath.Path(wanted)
  if getattr(jax.config, SETTING):
    return None
  return epath.Path(workdir) / FOLDER


@contextlib.contextmanager
def kept(
  wanted: str,
  workdir: epath.PathLike,
  warn: Callable[[str], None] = lambda _: None,
) -> Iterator[None]:
  """Caches programs compiled in the block.

  Args:
    wanted: as in `folder_of`.
    workdir: workdir of the run.
    warn: receives a line for each damaged program that is removed.
  """
  folder = folder_of(wanted, workdir)
  if folder is None and wanted != NONE:
    yield
    return
  if folder is not None:
    drop_damaged(folder, warn)
  before = getattr(jax.config, SETTING)
  jax.config.update(SETTING, None if folder is None else os.fspath(folder))
  compilation_cache.reset_cache()  # JAX reads the setting only once
  try:
    yield
  finally:
    jax.config.update(SETTING, before)
    compilation_cache.reset_cache()


def drop_damaged(folder: epath.Path, warn: Callable[[str], None]) -> None:
  """Removes programs that a kill or the disk has damaged; warns of each.

  JAX compiles a program that it cannot read, but never writes it to the cache
  again. It compresses programs with zlib, whose format has a checksum. Where
  the package `zstandard` is installed JAX uses zstandard, without a checksum;
  files of that format are left as they are.
  """
  try:
    paths = [*folder.iterdir()]
  except OSError:
    return
  for path in paths:
    if path.name.endswith('-cache') and files.is_local(path) and _damaged(path):
      warn(f'compiled program {path} is damaged; it is compiled again')
      with contextlib.suppress(OSError):
        path.unlink()


def _damaged(path: epath.Path) -> bool:
  """Whether a file compressed by zlib does not decompress."""
  try:
    with path.open('rb') as f:
      unpack = zlib.decompressobj()
      block = f.read(1 << 20)
      if block[:4] == b'\x28\xb5\x2f\xfd':  # zstandard's
        return False
      while block:
        unpack.decompress(block)  # type: ignore[arg-type] # epath: always text
        block = f.read(1 << 20)
      return not unpack.eof
  except zlib.error:
    return True
  except OSError:
    return False  # JAX itself warns of a file that it cannot read
