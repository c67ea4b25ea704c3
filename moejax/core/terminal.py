"""Standard output and error after their reader has gone.

When a terminal is closed, or the connection to it drops, the kernel sends
SIGHUP, and from then on every write to it fails with EIO; a pipe whose reader
was ended by the same signal fails with EPIPE. A process that still has to save
its state must not end because of a line that it prints.
"""

import contextlib
import errno
import os
import select
import signal
import stat
import sys
from collections.abc import Iterator

# Errors of a write to a terminal or a pipe whose other end is closed.
GONE = (errno.EIO, errno.EPIPE)
# The signal of a closed terminal; None on Windows, which has no such signal.
HANGUP: signal.Signals | None = getattr(signal, 'SIGHUP', None)


def hangs_up() -> bool:
  """Whether SIGHUP should end this process.

  It should not under `nohup`, which starts a process with SIGHUP ignored so
  that the process outlives its terminal. Code that sets a handler for SIGHUP
  asks this function first.
  """
  return HANGUP is not None and signal.getsignal(HANGUP) is not signal.SIG_IGN


@contextlib.contextmanager
def outlived(remark: str = '') -> Iterator[None]:
  """Suppresses errors of printing in the block if the output's reader is gone.

  Example:
    with terminal.outlived():
      print('step 3', flush=True)

  Args:
    remark: a line for stderr if the reader of stdout is gone; by default there
      is none.
  """
  try:
    yield
  except OSError as error:
    if error.errno not in GONE or not let_go():
      raise
    if remark:
      note(remark)  # to /dev/null if the reader of stderr is gone too


def let_go() -> bool:
  """Redirects standard output and error to /dev/null if their reader is gone.

  Terminals are always redirected, so call this only after SIGHUP or a failed
  write. Files, and pipes that somebody reads, are kept.

  Returns:
    Whether one of the two was redirected.
  """
  released = False
  for descriptor in (1, 2):
    try:
      if _is_gone(descriptor):
        _to_nowhere(descriptor)
        released = True
    except OSError:  # the stream is closed
      continue
  return released


def _is_gone(descriptor: int) -> bool:
  """Whether a descriptor is a terminal, or a pipe that nobody reads."""
  mode = os.fstat(descriptor).st_mode
  # Not os.isatty, which is false for a terminal that has been closed.
  if stat.S_ISCHR(mode):
    return True
  if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
    return False
  poll = select.poll()
  poll.register(descriptor, 0)
  return bool(poll.poll(0))  # POLLERR and POLLHUP are always reported


def _to_nowhere(descriptor: int) -> None:
  null = os.open(os.devnull, os.O_WRONLY)
  try:
    os.dup2(null, descriptor)
  finally:
    os.close(null)


def say(line: str) -> None:
  """Writes a line to stdout at once."""
  sys.stdout.write(f'{line}\n')
  sys.stdout.flush()


def note(line: str) -> None:
  """Writes a line to stderr at once; for messages that are no output."""
  sys.stderr.write(f'{line}\n')
  sys.stderr.flush()


def write(text: str) -> None:
  """Writes to stdout at once; on a terminal '?' replaces control characters."""
  if sys.stdout.isatty():
    text = ''.join(c if c.isprintable() or c in '\n\t' else '?' for c in text)
  sys.stdout.write(text)
  sys.stdout.flush()
