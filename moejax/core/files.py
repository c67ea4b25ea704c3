"""Files that are whole or absent: atomic writes, checksums, and `versions`.

Paths go through `etils.epath`, so that `gs://bucket/run` is a path as well. A
local file is written under another name, flushed to disk and renamed. An object
store puts an object whole or not at all, so that is written directly.
"""

import concurrent.futures
import contextlib
import functools
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import secrets
import subprocess
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

import jax
from etils import epath

from moejax.core import errors, locks

T = TypeVar('T')
MANIFEST, LOCK = 'manifest.json', '.lock'
# Number of files that are read at the same time. One thread reads a fast disk,
# or an object store, at a small part of its speed.
THREADS = 8
PACKAGES = (
  'absl-py', 'etils', 'flax', 'jax', 'jaxlib', 'libtpu', 'ml-collections',
  'moejax', 'numpy', 'optax', 'orbax-checkpoint', 'pyarrow', 'rich',
  'safetensors', 'sentencepiece', 'seqio', 'tensorboardX', 'tensorflow',
  'tensorflow-datasets', 'tensorflow-text', 'tensorstore', 'tokenizers',
)  # fmt: skip


def is_local(path: epath.PathLike) -> bool:
  """Whether a path is in this machine's file system, not `gs://...`."""
  return '://' not in os.fspath(path)


def check_local(path: epath.PathLike, flag: str) -> None:
  """Raises InputError, which names the flag, if a folder is not local.

  It is for folders whose files are mapped into memory (mmap).
  """
  if not is_local(path):
    raise errors.InputError(
      f'{flag}={path} must be a folder of this machine; copy it there when '
      'it is whole'
    )


def atomic_write_text(path: epath.PathLike, text: str) -> None:
  """`atomic_write_bytes` of a text in UTF-8."""
  atomic_write_bytes(path, text.encode())


def atomic_write_bytes(path: epath.PathLike, data: bytes) -> None:
  """Writes a file whole or not at all: no reader ever sees half of it.

  Raises:
    OSError: the disk is full or not writable; an older file is untouched.
  """
  path = epath.Path(path)
  if not is_local(path):
    path.write_bytes(data)
    return
  part = path.with_name(path.name + '.part')
  try:
    with open(part, 'wb') as f:
      f.write(data)
      f.flush()
      os.fsync(f.fileno())
    os.replace(part, path)
  finally:
    part.unlink(missing_ok=True)
  sync_folder(path.parent)


def atomic_write_json(path: epath.PathLike, value: Any) -> None:
  """Writes a value as indented JSON.

  Text is written as it is. If some text has no UTF-8 form, as the name of a
  file in another encoding has none, all text is written with escapes.

  Raises:
    ValueError: a float is not finite.
    OSError: as `atomic_write_bytes`.
  """
  dumps = functools.partial(json.dumps, value, indent=2, allow_nan=False)
  text = dumps(ensure_ascii=False)
  try:
    text.encode()
  except UnicodeEncodeError:
    text = dumps(ensure_ascii=True)
  atomic_write_text(path, text + '\n')


def sync_folder(folder: epath.PathLike) -> None:
  """Flushes the entries of a local folder, so a rename survives a power cut."""
  if os.name == 'nt' or not is_local(folder):
    return
  descriptor = os.open(folder, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def check_writable(folder: epath.PathLike, name: str = 'workdir') -> None:
  """Makes a folder and tries to write in it, before anything is computed.

  Raises:
    InputError: the folder is a file, cannot be made, or cannot be written to.
      `name` is the user's word for the folder:
      workdir '/etc/x' is not writable (Permission denied); choose another
      folder
  """
  folder = epath.Path(folder)
  # Random, as processes of several machines may do so with equal process ids.
  probe = folder / f'.writable-{secrets.token_hex(8)}'
  try:
    folder.mkdir(parents=True, exist_ok=True)
    probe.write_text('x')
    probe.unlink()
  except (FileExistsError, NotADirectoryError) as error:
    raise errors.InputError(
      f'{name} {os.fspath(folder)!r} is a file, or lies below one; choose a '
      'folder'
    ) from error
  except OSError as error:
    raise errors.InputError(
      f'{name} {os.fspath(folder)!r} is not writable '
      f'({error.strerror or error}); choose another folder'
    ) from error


def check_output(path: str, flag: str) -> None:
  """Checks a command's output path before anything is computed.

  A file that exists at the path is left as it is; the command replaces it when
  its work is done.

  Args:
    path: path of the file. A path on an object store is not checked.
    flag: the flag that named the path, for the message.

  Raises:
    InputError: the path is empty, or is a folder, or its folder does not exist
      or cannot be written to. Example:
      --out=plans/a.json: there is no folder 'plans'; make it first
  """
  if not path:
    raise errors.InputError(f'{flag}= is empty: name a file')
  if not is_local(path):
    return
  file = pathlib.Path(path)
  if file.is_dir():
    raise errors.InputError(f'{flag}={path} is a folder; name a file in it')
  folder = file.parent
  if not folder.is_dir():
    raise errors.InputError(
      f'{flag}={path}: there is no folder {str(folder)!r}; make it first'
    )
  check_writable(folder, f'{flag}={path}: the folder')


@contextlib.contextmanager
def locked(
  folder: epath.PathLike, say: Callable[[str], None]
) -> Iterator[None]:
  """Keeps other processes out of a folder until the block ends.

  Two runs in one workdir, for example, would remove each other's checkpoints.

  Args:
    folder: the folder. On an object store nothing is done.
    say: takes a warning if the file system has no locks and none is taken.

  Raises:
    InputError: another process has locked the folder.
  """
  if not is_local(folder):
    yield
    return
  with open(epath.Path(folder) / LOCK, 'w', encoding='utf-8') as f:
    try:
      locked_here = locks.take(f)
    except locks.NoLocksError as e:
      say(
        f'The file system of {folder} has no locks ({e}): nothing keeps a '
        'second process out of it, so start none.'
      )
      locked_here = True
    if not locked_here:
      raise errors.InputError(
        f'{folder} is in use by another process; wait for it, or use another '
        '--workdir'
      )
    yield


def sha256(path: epath.PathLike, sync: bool = False) -> str:
  """The SHA-256 checksum of a file as hexadecimal text.

  With `sync` a local file is flushed to disk as well, so that the bytes of the
  checksum survive a power cut.
  """
  with epath.Path(path).open('rb') as f:
    digest = hashlib.sha256()
    while block := f.read(1 << 20):
      digest.update(block)  # type: ignore[arg-type] # epath: always text
    if sync and is_local(path):
      os.fsync(f.fileno())
  return digest.hexdigest()


def _files_below(folder: epath.Path) -> Iterator[tuple[str, epath.Path]]:
  """Every file below a folder by its name relative to it, in sorted order."""
  for path in sorted(folder.iterdir(), key=lambda p: p.name):
    if path.is_dir():
      for name, below in _files_below(path):
        yield f'{path.name}/{name}', below
    else:
      yield path.name, path


class Spread(Protocol):
  """Does some work for each of many items, in one process or in several.

  One process: `in_threads`. Several: `Group.spread` of parallel/group.py.
  """

  def __call__(
    self, work: Callable[[Any], T], items: Callable[[], list[Any]]
  ) -> list[T]:
    """The result of `work` for each item, in the order of the items.

    `work` is called in threads, `items`, which makes the list, in one process.
    """
    ...


def in_threads(
  work: Callable[[Any], T], items: Callable[[], list[Any]]
) -> list[T]:
  """A `Spread` over threads of this process."""
  pool = concurrent.futures.ThreadPoolExecutor(THREADS, 'files')
  try:
    return [*pool.map(work, items())]
  finally:
    pool.shutdown(cancel_futures=True)


def write_manifest(
  folder: epath.PathLike, spread: Spread = in_threads, writes: bool = True
) -> None:
  """Writes size and checksum of every file below a folder to manifest.json.

  Args:
    folder: the folder; manifest.json is put in it.
    spread: how the checksums are shared out among threads and processes.
    writes: whether this process writes manifest.json; one of them does.

  Example, for a folder with `a/x` (3 bytes) and `y` (0 bytes):
    {"files": {"a/x": {"bytes": 3, "sha256": "ba78..."},
               "y": {"bytes": 0, "sha256": "e3b0..."}}}
  """
  folder = epath.Path(folder)

  def size_and_sum(name: str) -> tuple[str, dict[str, Any]]:
    path = folder / name
    digest = sha256(path, sync=True)
    return name, {'bytes': path.stat().length, 'sha256': digest}

  names = lambda: [n for n, _ in _files_below(folder) if n != MANIFEST]
  entries = dict(spread(size_and_sum, names))
  if writes:
    atomic_write_json(folder / MANIFEST, {'files': entries})


def damage(folder: epath.PathLike, spread: Spread = in_threads) -> str | None:
  """Compares a folder with its manifest; None if every byte is right.

  Otherwise the first difference: 'a/x has 2 bytes, not 3'. Sizes are compared
  first, so a cut file is found without reading the others. Files that the
  manifest does not name are ignored.
  """
  folder = epath.Path(folder)

  def wrong(item: tuple[str | None, str]) -> str | None:
    name, text = item
    return text if name is None else _wrong_sum(folder, folder / name, text)

  reasons = spread(wrong, lambda: _to_compare(folder))
  return next(filter(None, reasons), None)


def _to_compare(folder: epath.Path) -> list[tuple[str | None, str]]:
  """The name and stated checksum of each file, if all sizes are right.

  Otherwise one pair (None, reason): manifest.json or a size is wrong.
  """
  try:
    listed = json.loads((folder / MANIFEST).read_text())['files']
    files = [(n, v['bytes'], v['sha256']) for n, v in listed.items()]
  except OSError:
    return [(None, f'{MANIFEST} cannot be read')]
  except (ValueError, KeyError, TypeError, AttributeError):
    return [(None, f'{MANIFEST} is damaged')]
  wrong = (_wrong_size(folder, folder / n, size) for n, size, _ in files)
  if reason := next(filter(None, wrong), None):
    return [(None, reason)]
  return [(name, checksum) for name, _, checksum in files]


def _wrong_size(folder: epath.Path, path: epath.Path, size: int) -> str | None:
  name = path.relative_to(folder)
  try:
    length = path.stat().length
  except OSError as error:
    return f'{name}: {error.strerror or error}'
  return (
    None if length == size else f'{name} has {length:,} bytes, not {size:,}'
  )


def _wrong_sum(
  folder: epath.Path, path: epath.Path, checksum: str
) -> str | None:
  name = path.relative_to(folder)
  try:
    return None if sha256(path) == checksum else f'{name} has another checksum'
  except OSError as error:
    return f'{name}: {error.strerror or error}'


def version(package: str) -> str | None:
  """The version of an installed package; None if it is not installed."""
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return None


def versions() -> dict[str, Any]:
  """Software and devices of this run, for versions.json.

  Nothing in it names the machine. Example:
    {'python': '3.11.7', 'platform': 'linux-x86_64',
     'packages': {'jax': '0.10.2', ...},
     'git': {'commit': '1a2b...', 'changed': False},
     'devices': {'backend': 'cpu', 'kind': 'cpu', 'count': 8, 'processes': 1}}
  """
  installed = {name: version(name) for name in PACKAGES}
  packages = {name: text for name, text in installed.items() if text}
  return {
    'python': platform.python_version(),
    'platform': f'{platform.system()}-{platform.machine()}'.lower(),
    'packages': packages,
    'git': git_state(pathlib.Path(__file__).parent),
    'devices': {
      'backend': jax.default_backend(),
      'kind': jax.devices()[0].device_kind,
      'count': jax.device_count(),
      'processes': jax.process_count(),
    },
  }


def git_state(folder: pathlib.Path) -> dict[str, Any] | None:
  """Commit of a checkout, and whether its tracked files differ from the commit.

  None without git, and for a folder that git does not track: a copy installed
  below somebody else's repository must not be given that repository's commit.
  """
  if not _git(folder, 'ls-files'):
    return None
  commit = _git(folder, 'rev-parse', 'HEAD')
  if not commit:
    return None
  changes = _git(folder, 'status', '--porcelain', '--untracked-files=no')
  return {'commit': commit, 'changed': changes != ''}


def _git(folder: pathlib.Path, *args: str) -> str | None:
  """Output of a git command; None if the command fails or git is missing."""
  command = ['git', '-C', os.fspath(folder), *args]
  try:
    done = subprocess.run(
      command, capture_output=True, text=True, timeout=30, check=False
    )
  except (OSError, subprocess.SubprocessError):
    return None
  return done.stdout.strip() if done.returncode == 0 else None
