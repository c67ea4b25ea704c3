"""Locks on files that the system lets go of when their process ends.

Some file systems have none: Lustre mounted without `flock`, some network file
systems. There a process cannot tell whether another is at work, as on an object
store: that is said, and it goes on.
"""

import errno
import os
from typing import IO

_HELD = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES}


class NoLocksError(Exception):
  """The file system, or the operating system, has no locks; its reason."""


def take(file: IO | int, shared: bool = False) -> bool:
  """Tries to lock an open file, and does not wait.

  Args:
    file: the file; closing it ends the lock.
    shared: several processes may have a shared lock at once, and none an
      exclusive one beside it.

  Returns:
    Whether the lock is ours; otherwise another process has it.

  Raises:
    NoLocksError: nobody can have a lock there.
  """
  try:
    import fcntl  # not on Windows

    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    fcntl.flock(file, kind | fcntl.LOCK_NB)
  except ImportError:
    raise NoLocksError('not on this operating system') from None
  except OSError as e:
    if e.errno in _HELD:
      return False
    raise NoLocksError(os.strerror(e.errno or 0)) from None
  return True
