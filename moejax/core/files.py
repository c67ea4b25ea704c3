"""Files that are whole or absent: atomic writes, locks and checksums.

Paths go through `etils.epath`, so that `gs://bucket/run` is a path as well. A
local file is written under another name, flushed to disk and renamed. An object
store puts an object whole or not at all, so that is written directly.
"""

import contextlib
import functools
import hashlib
import json
import os
import pathlib
import secrets
import stat
from collections.abc import Callable, Iterator
from typing import Any

from etils import epath

from moejax.core import errors, locks

LOCK = '.lock'


def is_local(path: epath.PathLike) -> bool:
  """Whether a path is in this machine's file system, not `gs://...`."""
  return '://' not in os.fspath(path)


def no_file(path: epath.PathLike) -> str:
  """Why a path is not a regular file, whose reading ends; '' if it is one.

  It is '' for a file that has vanished, too; reading that raises an error. An
  object of an object store is a regular file.
  """
  if not is_local(path):
    return ''
  try:
    mode = os.stat(path).st_mode
  except OSError as e:
    leads_nowhere = os.path.islink(path)
    return f'a link that leads nowhere ({e.strerror})' if leads_nowhere else ''
  if stat.S_ISREG(mode):
    return ''
  return 'a named pipe' if stat.S_ISFIFO(mode) else 'a device or a socket'


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
