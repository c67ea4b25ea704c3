"""A folder of compiled programs, which JAX reads at the next start.

A run that goes on after a kill, and the runs of one shape in a sweep, need not
compile their programs again. JAX writes a file for each program and names it by
a hash of the program, the compiler and its flags. A program from the folder
computes the same as a newly compiled one, to the bit.
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
# Settings under which every program is kept. By default JAX keeps those that
# took a second or more to compile.
KEEP_ALL = {
  'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
  'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
}


def environment(folder: epath.PathLike) -> Mapping[str, str]:
  """Environment of a new process that keeps every program in the folder."""
  return {SETTING.upper(): os.path.abspath(folder), **KEEP_ALL}


def folder_of(wanted: str, workdir: epath.PathLike) -> epath.Path | None:
  """The folder of programs; None for none, or if JAX has a setting of its own.

  Args:
    wanted: a folder, 'none', or '' for the workdir's own.
    workdir: workdir of the run.
  """
  if wanted == NONE:
    return None
  if wanted:
    return epath.Path(wanted)
  if getattr(jax.config, SETTING):
    return None  # by the environment, or by a sweep
  return epath.Path(workdir) / FOLDER


@contextlib.contextmanager
def kept(
  wanted: str,
  workdir: epath.PathLike,
  warn: Callable[[str], None] = lambda _: None,
) -> Iterator[None]:
  """Programs compiled in the block are kept; arguments as in `folder_of`."""
  folder = folder_of(wanted, workdir)
  if folder is None and wanted != NONE:
    yield
    return
  if folder is not None:
    drop_damaged(folder, warn)
  before = getattr(jax.config, SETTING)
  jax.config.update(SETTING, None if folder is None else os.fspath(folder))
  compilation_cache.reset_cache()  # it looks at the setting only once
  try:
    yield
  finally:
    jax.config.update(SETTING, before)
    compilation_cache.reset_cache()


def drop_damaged(folder: epath.Path, warn: Callable[[str], None]) -> None:
  """Removes programs that a kill or a disk has damaged, each with a line.

  JAX itself goes on without a program that it cannot read, but never writes it
  again. It packs them with zlib, which has a checksum; where the package
  `zstandard` is installed it takes that, which has none, and such files are
  left as they are.
  """
  try:
    paths = [*folder.iterdir()]
  except OSError:
    return
  for path in paths:
    if path.name.endswith('-cache') and files.is_local(path) and _cut(path):
      warn(f'compiled program {path} is damaged; it is compiled again')
      with contextlib.suppress(OSError):
        path.unlink()


def _cut(path: epath.Path) -> bool:
  """Whether a file that zlib packed does not unpack."""
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
    return False  # JAX says what there is to say
