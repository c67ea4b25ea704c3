"""A second Ctrl-C ends the process at once, wherever it is.

The first Ctrl-C becomes an exception or a flag, which Python's main thread sees
only between two of its own instructions. While XLA compiles, that takes up to
minutes, several Ctrl-C count as one, and an exception that is raised inside of
a compiler's callbacks can crash the process. So a thread counts the signals,
which Python's handler in C writes to a pipe when they arrive. On the second one
it ends the process without unwinding the main thread. That does not damage
files: they get their final names only when they are whole.
"""

import contextlib
import os
import signal
import threading

LINE = 'interrupted: ended at once by a second Ctrl-C'
_WATCHED = threading.Event()  # set while a thread counts
SHOW_CURSOR = b'\x1b[?25h'  # it is hidden while progress is drawn


def end_on_second(code: int) -> None:
  """From now on a second Ctrl-C ends this process; called once, in its main.

  A forked child does not share the count, since a terminal sends Ctrl-C to it
  as well.

  Args:
    code: exit code of the process.
  """
  if os.name == 'nt':
    return  # there the handler writes to sockets alone
  read, write = os.pipe()
  os.set_blocking(write, False)
  signal.set_wakeup_fd(write, warn_on_full_buffer=False)
  os.register_at_fork(after_in_child=_stop_in_child)
  _WATCHED.set()
  threading.Thread(target=_count, args=(read, code), daemon=True).start()


def ends_on_second() -> bool:
  """Whether the second Ctrl-C ends this process; its handler has then no work.

  An exception from the handler could run through the code of a compiler, and
  its message would stand beside that of the end.
  """
  return _WATCHED.is_set()


def _stop_in_child() -> None:
  signal.set_wakeup_fd(-1)
  _WATCHED.clear()


def _count(read: int, code: int) -> None:
  """Reads numbers of signals, one byte each, until two are Ctrl-C."""
  seen = 0
  while seen < 2:
    seen += os.read(read, 64).count(signal.SIGINT)
  for descriptor in (1, 2):
    with contextlib.suppress(OSError):
      if os.isatty(descriptor):
        os.write(descriptor, SHOW_CURSOR)
  with contextlib.suppress(OSError):
    os.write(2, f'{LINE}\n'.encode())
  os._exit(code)
