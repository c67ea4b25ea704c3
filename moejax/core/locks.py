"""Locks on open files, which the system frees when their process ends.

Exclusive locks are those of the library filelock. Shared locks are taken here:
filelock's lock for many readers is a SQLite database beside the file, and needs
a folder that can be written to. On Unix both are `flock`, so they exclude each
other.

Some file systems have no locks: Lustre mounted without `flock`, and some
network file systems. On these, as on an object store, a process cannot tell
whether another one is at work; the caller warns and goes on.
"""

import errno
import os
from typing import IO

import filelock

_HELD = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES}


class NoLocksError(Exception):
  """The file system or the operating system has no locks; says why."""


def take(file: IO | int, shared: bool = False) -> bool:
  """Tries to lock an open file, without waiting.

  Args:
    file: the file, or its descriptor; closing it ends the lock.
    shared: whether the lock is shared. Several processes may have a shared lock
      at once, but none an exclusive lock at the same time.

  Returns:
    Whether this process now has the lock; if not, another process has it.

  Raises:
    NoLocksError: the file system or the operating system has no such locks.
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
