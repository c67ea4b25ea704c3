"""Checks that all processes of a run see the same workdir."""

import secrets
import time

from etils import epath

from moejax.core import errors
from moejax.parallel.group import Group

NAME = '.meeting'
# Seconds to wait for a new file to appear, which on a network disk may be late.
PATIENCE_S = 10.0


def check_shared(folder: epath.Path, group: Group) -> None:
  """Raises InputError in a process whose workdir is not that of process 0.

  With local disks under the same name, each would get its own part of every
  checkpoint, and none would have a whole one. Process 0 writes a file with a
  random token, which the others look for.
  """
  if group.count == 1:
    return
  path = folder / NAME

  def write() -> str:
    path.write_text(token := secrets.token_hex(8))
    return token

  token = group.broadcast('workdir', write)
  until = time.monotonic() + PATIENCE_S
  while _token(path) != token:
    if time.monotonic() > until:
      raise errors.InputError(
        f'workdir {folder} is another folder here than in process 0; use one '
        'that all processes share, such as a network folder or gs://...'
      )
    time.sleep(0.2)
  group.barrier('workdir seen')
  if group.index == 0:
    path.unlink(missing_ok=True)


def _token(path: epath.Path) -> str:
  """The text of a file; '' while it cannot be read."""
  try:
    return path.read_text()
  except OSError:
    return ''
