"""Locks on open files, which the system frees when their process ends.

Exclusive locks are filelock's. Shared ones are not in it: its lock for many
readers is a SQLite database beside the file, which a folder that this process
may only read cannot have. Both are `flock` on Unix, so they see each other.

Some file systems have no locks: Lustre mounted without `flock`, some network
file systems. There a process cannot tell whether another one is at work, as on
an object store: the caller says so and goes on.
"""

import errno
import os
from typing import IO

import filelock

_HELD = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES}


class NoLocksError(Exception):
  """The file system, or the operating system, has no locks; its reason."""


def take(file: IO | int, shared: bool = False) -> bool:
  """Tries to lock an open file, and does not wait.

  Args:
    file: the file, or its descriptor; closing it ends the lock.
    shared: several processes may have a shared lock at once, and none an
      exclusive one beside it.

  Returns:
    Whether this process has the lock; otherwise another one has it.

  Raises:
    NoLocksError: no process can have such a lock there.
  """
  descriptor = file if isinstance(file, int) else file.fileno()
  try:
    if shared:
      return _take_shared(descriptor)
    return filelock.lock_descriptor(descriptor, blocking=False)
  except OSError as error:
    raise NoLocksError(os.strerror(error.errno or 0)) from None


def _take_shared(descriptor: int) -> bool:
  try:
    import fcntl  # not on Windows
  except ImportError:
    raise NoLocksError('not on this operating system') from None
  try:
    fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
  except OSError as error:
    if error.errno in _HELD:
      return False
    raise
  return True
