"""How a command ends: one line for an error of the user, and an exit code.

Exit codes:
  0   done
  1   a bug: a stack trace was printed
  2   bad input: one line says what, where and how to mend it
  3   training stopped by itself (loss not finite, say); its state was kept
  4   no step ended for train.watchdog_s seconds, and train.watchdog_exits was
      set; run the same command to go on
  5   a plan does not fit into the memory of the chips
  6   another process of the run is lost, or never came; start all again
  75  interrupted by Ctrl-C, SIGTERM or SIGHUP (a closed terminal); training
      was saved first: run the same command to go on
141 nobody reads the output any more, as behind `| head`; nothing is said
"""

import errno
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from moejax.core import errors, lines, terminal

TRACE = '--trace'
DONE, BUG, BAD_INPUT, STOPPED = 0, 1, 2, 3
STUCK, DOES_NOT_FIT, LOST, INTERRUPTED = 4, 5, 6, 75
NOT_READ = 141  # of a shell for a process that SIGPIPE ended
DISK_ERRORS = (
  errno.ENOSPC,
  errno.EDQUOT,
  errno.EFBIG,
  errno.EROFS,
  errno.EIO,
)


_ENDINGS = (
  (errors.InputError, BAD_INPUT, 'error'),
  (errors.StoppedError, STOPPED, 'stopped'),
  (errors.LostHostError, LOST, 'lost'),
  (errors.InterruptedRunError, INTERRUPTED, 'interrupted'),
  (errors.DoesNotFitError, DOES_NOT_FIT, 'does not fit'),
)


def main(run: Callable[[Sequence[str]], None]) -> None:
  """Runs a command on the process's arguments and exits with its code."""
  sys.exit(call(run, sys.argv[1:]))


def call(run: Callable[[Sequence[str]], None], argv: Sequence[str]) -> int:
  """Runs a command; errors that are the user's become one line on stderr.

  With `--trace` anywhere in argv the stack goes before that line: of a config
  file that raised, its own.
  """
  trace = TRACE in argv
  argv = [word for word in argv if word != TRACE]
  before = _interrupts()
  try:
    run(argv)
    with terminal.outlived():
      sys.stdout.flush()
  except BrokenPipeError:
    if not terminal.let_go():
      raise  # another pipe than our output
    return NOT_READ
  except (Exception, KeyboardInterrupt) as e:
    found = ending(e)
    if found is None:
      raise
    if trace:
      _show_trace(e)
    return _say(*found)
  finally:
    for which, handler in before.items():
      signal.signal(which, signal.SIG_DFL if handler is None else handler)
  return DONE


def ending(error: BaseException) -> tuple[int, str] | None:
  """Exit code and line of an error that is the user's; None of a bug."""
  for kind, code, word in _ENDINGS:
    if isinstance(error, kind):
      return code, f'{word}: {error}'
  if isinstance(error, KeyboardInterrupt):
    return (
      INTERRUPTED,
      'interrupted: what was finished is kept; run the same command to go on',
    )
  if isinstance(error, OSError) and error.errno in DISK_ERRORS:
    return (
      STOPPED,
      f'stopped: the disk failed: {error}; mend it and run the same command: '
      'the last checkpoint is whole',
    )
  return None


def _show_trace(error: BaseException) -> None:
  """Prints the stack of what an error was made of."""
  while error.__cause__ is not None:
    error = error.__cause__
  traceback.print_exception(error, chain=False)


def _say(code: int, line: str) -> int:
  if sys.stderr.isatty():
    columns = shutil.get_terminal_size().columns
    line = '\n'.join(lines.wrapped(line, columns))
  sys.stderr.write(f'{line}\n')
  return code


def _interrupts() -> dict[signal.Signals, Any]:
  """Makes signals raise KeyboardInterrupt; returns what was there before.

  They are SIGINT, SIGTERM and, unless `nohup` has it ignored, SIGHUP. Python
  does so with SIGINT itself, but not where it was ignored at the start, as for
  a command that a script put in the background. Only the main thread is let set
  a handler.
  """
  if threading.current_thread() is not threading.main_thread():
    return {}

  def handle(number: int, _: Any) -> None:
    if number == terminal.HANGUP:
      terminal.let_go()
    raise KeyboardInterrupt

  taken = [signal.SIGINT, signal.SIGTERM]
  if terminal.HANGUP is not None and terminal.hangs_up():
    taken.append(terminal.HANGUP)
  return {which: signal.signal(which, handle) for which in taken}
