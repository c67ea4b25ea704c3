"""The workdir of several processes: one folder that all of them see."""

import secrets
import time

from etils import epath

from moejax.core import errors
from moejax.parallel.group import Group

NAME = '.meeting'
# A network's folder may show a new file late.
PATIENCE_S = 10.0


def check_shared(folder: epath.Path, group: Group) -> None:
  """Raises InputError in a process that has another folder than process 0.

  A disk of its own under the same name would take half of every checkpoint.
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
  try:
    return path.read_text()
  except OSError:
    return ''
