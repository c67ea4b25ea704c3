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
# Windows has no such signal.
HANGUP: signal.Signals | None = getattr(signal, 'SIGHUP', None)


def hangs_up() -> bool:
  """Whether SIGHUP should end this process; `nohup` makes it ignored.

  Ask where signal handlers are set: under `nohup` a process must outlive its
  terminal.
  """
  return HANGUP is not None and signal.getsignal(HANGUP) is not signal.SIG_IGN


@contextlib.contextmanager
def outlived() -> Iterator[None]:
  """Drops what is printed in the block if nobody can read it any more.

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
  """Redirects standard output and error to nowhere if their reader has gone.

  Terminals are redirected in any case, so call this after SIGHUP or after a
  failed write only. Files, and pipes that somebody reads, are kept.

  Returns:
    Whether one of the two was redirected.
  """
  released = False
  for number in (1, 2):
    try:
      if _is_gone(number):
        _to_nowhere(number)
        released = True
    except OSError:  # the stream is closed
      continue
  return released


def _is_gone(number: int) -> bool:
  mode = os.fstat(number).st_mode
  # os.isatty is false for a terminal that has been closed.
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


def note(line: str) -> None:
  """Writes a line to stderr: what a command says beside its output."""
  sys.stderr.write(f'{line}\n')
  sys.stderr.flush()
