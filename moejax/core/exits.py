"""The end of a command: one line for an expected error, and an exit code.

Exit codes:
  0   done
  1   a bug: a stack trace was printed
  2   bad input: one line names the value, its place, and how to mend it
  3   training stopped because it cannot go on, as when the loss is not finite;
      its checkpoints are kept
  4   no step ended for train.watchdog_s seconds, and train.watchdog_exits was
      set; run the same command to go on
  5   a plan or a program does not fit into the memory of the devices
  6   another process of the run is lost, or did not start; start all again
  75  interrupted by Ctrl-C, SIGTERM or SIGHUP (a closed terminal); training
      was saved first: run the same command to go on
  141 the reader of the output has gone, as with `| head`; nothing is printed
      (training goes on without output, and says so)
"""

import errno
import re
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from moejax.core import errors, interrupts, lines, terminal

TRACE = '--trace'
DONE, BUG, BAD_INPUT, STOPPED = 0, 1, 2, 3
STUCK, DOES_NOT_FIT, LOST, INTERRUPTED = 4, 5, 6, 75
NOT_READ = 141  # as a shell reports a process that SIGPIPE (13) ended: 128 + 13
# Errors of a disk, on which a run stops and can go on when the disk is mended.
DISK_ERRORS = (
  errno.ENOSPC,
  errno.EDQUOT,
  errno.EFBIG,
  errno.EROFS,
  errno.EIO,
)
# How JAX's error begins where a device has too little memory.
TOO_LARGE = 'RESOURCE_EXHAUSTED'
# How fsspec asks for the package that reads an object store, such as gs://.
STORE = re.compile(r'[Ii]nstall (\w+) to access')


# Error class, exit code, and first word of the line.
_ENDINGS = (
  (errors.InputError, BAD_INPUT, 'error'),
  (errors.StoppedError, STOPPED, 'stopped'),
  (errors.LostHostError, LOST, 'lost'),
  (errors.InterruptedRunError, INTERRUPTED, 'interrupted'),
  (errors.DoesNotFitError, DOES_NOT_FIT, 'does not fit'),
)


def main(run: Callable[[Sequence[str]], None], keeps: bool = True) -> None:
  """Runs a command on the process's arguments and exits with its code.

  A second Ctrl-C ends the process at once.

  Args:
    run: the command.
    keeps: whether an interrupted command leaves work that it goes on from.
  """
  interrupts.end_on_second(INTERRUPTED)
  sys.exit(call(run, sys.argv[1:], keeps))


def call(
  run: Callable[[Sequence[str]], None], argv: Sequence[str], keeps: bool = True
) -> int:
  """Runs a command and returns its exit code.

  An error that is no bug becomes one line on stderr. With `--trace` anywhere in
  `argv` its stack trace is printed before that line; if the error has a cause,
  such as an exception in a config file, the trace is that of the cause.

  Raises:
    Exception: a bug; whatever the command raised.
  """
  trace = TRACE in argv
  argv = [word for word in argv if word != TRACE]
  old_handlers = _set_interrupt_handlers()
  try:
    run(argv)
    with terminal.outlived():
      sys.stdout.flush()
  except BrokenPipeError:
    if not terminal.let_go():
      raise  # the broken pipe is not that of stdout or stderr
    return NOT_READ
  except (Exception, KeyboardInterrupt) as e:
    code_and_line = ending(e, keeps)
    if code_and_line is None:
      raise
    if trace:
      _show_trace(e)
    return _say(*code_and_line)
  finally:
    for number, handler in old_handlers.items():
      signal.signal(number, signal.SIG_DFL if handler is None else handler)
  return DONE


def ending(error: BaseException, keeps: bool = True) -> tuple[int, str] | None:
  """Exit code and line for an error that is no bug; None for a bug.

  Args:
    error: what ended the command.
    keeps: whether an interrupted command leaves work that it goes on from.
  """
  for kind, code, word in _ENDINGS:
    if isinstance(error, kind):
      return code, f'{word}: {error}'
  if isinstance(error, KeyboardInterrupt):
    kept = 'what was finished is kept; run the same command to go on'
    return INTERRUPTED, f'interrupted: {kept if keeps else "nothing is kept"}'
  if isinstance(error, ImportError):
    store = STORE.search(str(error))
    if store:
      return BAD_INPUT, f'error: {error}: pip install {store[1]}'
  if isinstance(error, OSError) and error.errno in DISK_ERRORS:
    return (
      STOPPED,
      f'stopped: the disk failed: {error}; mend it and run the same command: '
      'the last checkpoint is whole',
    )
  if isinstance(error, RuntimeError) and str(error).startswith(TOO_LARGE):
    reason = str(error).splitlines()[0].removeprefix(TOO_LARGE).strip(': .')
    return (
      DOES_NOT_FIT,
      f'does not fit: {reason}; of a run, set train.micro_batches or '
      'model.token_chunks higher, model.remat=full, a smaller '
      'train.batch_size, or mesh.fsdp over more devices (moejax '
      'plan says what fits); its last checkpoint is whole',
    )
  return None


def _show_trace(error: BaseException) -> None:
  """Prints the stack trace of an error's first cause, or of the error."""
  while error.__cause__ is not None:
    error = error.__cause__
  traceback.print_exception(error, chain=False)


def _say(code: int, line: str) -> int:
  """Prints a line to stderr, wrapped if that is a terminal; returns `code`."""
  if sys.stderr.isatty():
    columns = shutil.get_terminal_size().columns
    line = '\n'.join(lines.wrapped(line, columns))
  with terminal.outlived():  # the code is right even if nobody reads the line
    terminal.note(line)
  return code


def _set_interrupt_handlers() -> dict[signal.Signals, Any]:
  """Makes SIGINT, SIGTERM and SIGHUP raise KeyboardInterrupt.

  SIGHUP is left alone if `nohup` made this process ignore it. Python has such a
  handler for SIGINT, but not where SIGINT was ignored at the start, as for a
  command that a script put in the background.

  Returns:
    The former handlers. Empty outside of the main thread, where Python does not
    allow a handler to be set.
  """
  if threading.current_thread() is not threading.main_thread():
    return {}

  seen: set[int] = set()

  def handle(number: int, _: Any) -> None:
    if number == terminal.HANGUP:
      terminal.let_go()
    second = number == signal.SIGINT and number in seen
    seen.add(number)
    if not (second and interrupts.ends_on_second()):
      raise KeyboardInterrupt

  numbers = [signal.SIGINT, signal.SIGTERM]
  if terminal.HANGUP is not None and terminal.hangs_up():
    numbers.append(terminal.HANGUP)
  return {number: signal.signal(number, handle) for number in numbers}
