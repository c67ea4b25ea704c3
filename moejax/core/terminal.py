"""Standard output and error when nobody is left to read them.

When a terminal is closed, or the connection to it drops, the kernel sends
SIGHUP, and from then on every write to it fails with EIO; a pipe whose reader
was ended by the same signal fails with EPIPE. A process that wants to save what
it has must not end by a line that it prints.
"""

import contextlib
import errno
import os
import select
import signal
import stat
import sys
from collections.abc import Iterator

# Errors of a write to a terminal, or a pipe, at whose other end is nobody.
GONE = (errno.EIO, errno.EPIPE)
# Windows has no such signal.
HANGUP: signal.Signals | None = getattr(signal, 'SIGHUP', None)


def hangs_up() -> bool:
  """Whether SIGHUP is for this process: `nohup` has it ignored from the start.

  To be asked where handlers are set; a process that is to outlive its terminal
  must go on doing so.
  """
  return HANGUP is not None and signal.getsignal(HANGUP) is not signal.SIG_IGN


@contextlib.contextmanager
def outlived() -> Iterator[None]:
  """What is printed within is lost, and no error, where nobody can read it.

  Example:
    with terminal.outlived():
      print('step 3', flush=True)
  """
  try:
    yield
  except OSError as error:
    if error.errno not in GONE or not let_go():
      raise


def let_go() -> bool:
  """Makes standard output and error, where they are gone, go nowhere.

  Terminals are let go whether they are gone or not: to be called after SIGHUP,
  or when a write has failed. Files and pipes that somebody reads are kept.

  Returns:
    Whether there was one to let go.
  """
  found = False
  for number in (1, 2):
    try:
      if _is_gone(number):
        _to_nowhere(number)
        found = True
    except OSError:  # it was closed, so nothing is written to it
      continue
  return found


def _is_gone(number: int) -> bool:
  mode = os.fstat(number).st_mode
  # Not isatty: of a terminal that has been closed it says no.
  if stat.S_ISCHR(mode):
    return True
  if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
    return False
  poll = select.poll()
  poll.register(number, 0)
  return bool(poll.poll(0))  # POLLERR or POLLHUP, which need not be asked for


def _to_nowhere(number: int) -> None:
  null = os.open(os.devnull, os.O_WRONLY)
  try:
    os.dup2(null, number)
  finally:
    os.close(null)


def say(line: str) -> None:
  """Writes a line to stdout at once."""
  sys.stdout.write(f'{line}\n')
  sys.stdout.flush()
