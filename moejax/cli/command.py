"""What all commands share: flags, overrides, and how errors are shown.

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

import argparse
import difflib
import errno
import math
import re
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


class InterruptedRunError(Exception):
  """A signal stopped the run after its state was saved."""


class DoesNotFitError(Exception):
  """A plan needs more memory than the chips have."""


_ENDINGS = (
  (errors.InputError, BAD_INPUT, 'error'),
  (errors.StoppedError, STOPPED, 'stopped'),
  (errors.LostHostError, LOST, 'lost'),
  (InterruptedRunError, INTERRUPTED, 'interrupted'),
  (DoesNotFitError, DOES_NOT_FIT, 'does not fit'),
)


class _Parser(argparse.ArgumentParser):
  """argparse whose errors are the one line that all our errors are."""

  def __init__(self, *args: Any, **kwargs: Any):
    # Nor do the parsers of a command's parts take a part of a flag for it.
    super().__init__(*args, allow_abbrev=False, **kwargs)
    self.register('action', None, _Once)
    self.register('action', 'store', _Once)

  def error(self, message: str) -> None:
    # Of `number` and `text`, which say the value behind the flag.
    message = re.sub(r'^argument (--[\w-]+): =', r'\1=', message)
    raise errors.InputError(f'{message}; see --help')


class _Once(argparse.Action):
  """Stores the value of a flag that is given once, and is not empty."""

  given: Any = None

  def __call__(self, parser, namespace, values, option_string=None):
    if values == '' and option_string:
      parser.error(f'{option_string}= is empty')
    if self.given is not None and self.given != values:
      parser.error(
        f'{option_string}={self.given} and {option_string}={values} contradict '
        'each other; give one'
      )
    self.given = values
    setattr(namespace, self.dest, values)


def parser(doc: str) -> argparse.ArgumentParser:
  """A parser whose help is the module's docstring.

  A flag has one value, which is not empty, unless its `action` is `append`.
  """
  flags = _Parser(
    description=doc,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  flags.add_argument(
    TRACE, action='store_true', help='show where an error comes from'
  )
  return flags


def number(
  kind: type, least: float = -math.inf, most: float = math.inf
) -> Callable[[str], Any]:
  """A `type=` for a flag whose value is a number between two bounds.

  Example, number(int, 1, 9) with --limit=0:
    --limit=0 must be from 1 to 9; see --help
  """

  def parse_number(text: str) -> Any:
    try:
      value = kind(text)
    except ValueError:
      name = 'a whole number' if kind is int else 'a number'
      raise argparse.ArgumentTypeError(f'={text} is not {name}') from None
    if not least <= value <= most or not math.isfinite(value):
      if least > -math.inf and most < math.inf:
        bounds = f'from {least} to {most}'
      elif most < math.inf:
        bounds = f'{most} or less'
      else:
        bounds = f'{least} or more' if least > -math.inf else 'finite'
      raise argparse.ArgumentTypeError(f'={text} must be {bounds}')
    return value

  return parse_number


# Of what is drawn: what JAX takes as the seed of a key.
seed = number(int, 0, 2**63 - 1)


def text(value: str) -> str:
  """A `type=` for a flag whose value is text for a model, so valid UTF-8."""
  try:
    value.encode()
  except UnicodeEncodeError as e:
    raise argparse.ArgumentTypeError(
      f'={value!r} is not UTF-8: character {e.start} is a byte that stands '
      'for none'
    ) from None
  return value


def parse(
  flags: argparse.ArgumentParser, argv: Sequence[str]
) -> tuple[argparse.Namespace, list[tuple[str, str]]]:
  """The flags, and the overrides `--config.a.b=text` in their order.

  Raises:
    InputError: an unknown flag, or an override without a value.
  """
  plain, overrides = [], []
  rest = list(argv)
  while rest:
    word = rest.pop(0)
    if not word.startswith('--config.'):
      plain.append(word)
      continue
    key, equals, text = word.removeprefix('--config.').partition('=')
    if not equals:
      if not rest or rest[0].startswith('--'):
        raise errors.InputError(f'{word} needs a value: {word}=...')
      text = rest.pop(0)
    overrides.append((key, text))
  args, unknown = flags.parse_known_args(plain)
  if unknown:
    near = _nearest(flags, unknown[0])
    flags.error(
      f'unrecognized arguments: {" ".join(unknown)}'
      + (f'; did you mean {near}?' if near else '')
    )
  return args, overrides


def _nearest(flags: argparse.ArgumentParser, word: str) -> str:
  """The flag that a word may have meant, of the command or a part of it."""
  known = []
  for action in flags._actions:
    known += action.option_strings
    if isinstance(action, argparse._SubParsersAction):
      for part in action.choices.values():
        known += part._option_string_actions
  name = word.partition('=')[0].replace('-', '_')
  spelled = {flag.replace('-', '_'): flag for flag in known}
  near = difflib.get_close_matches(name, spelled, n=1, cutoff=0.75)
  return spelled[near[0]] if near and word.startswith('--') else ''


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
  print(line, file=sys.stderr)
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
  if terminal.hangs_up():
    taken.append(terminal.HANGUP)
  return {which: signal.signal(which, handle) for which in taken}
