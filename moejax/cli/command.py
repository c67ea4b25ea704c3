"""What all commands share: flags, overrides, and how errors are shown.

Exit codes:
  0   done
  1   a bug: a stack trace was printed
  2   bad input: one line says what, where and how to mend it
  3   training stopped by itself (loss not finite, say); its state was kept
  75  interrupted by Ctrl-C or SIGTERM after saving; run the same command again
"""

import argparse
import errno
import sys
from collections.abc import Callable, Sequence

from moejax.core import errors

DONE, BUG, BAD_INPUT, STOPPED, INTERRUPTED = 0, 1, 2, 3, 75
DISK_ERRORS = (
  errno.ENOSPC,
  errno.EDQUOT,
  errno.EFBIG,
  errno.EROFS,
  errno.EIO,
)


class InterruptedRunError(Exception):
  """A signal stopped the run after its state was saved."""


class _Parser(argparse.ArgumentParser):
  """argparse whose errors are the one line that all our errors are."""

  def error(self, message: str) -> None:
    raise errors.InputError(f'{message}; see --help')


def parser(doc: str) -> argparse.ArgumentParser:
  """A parser whose help is the module's docstring."""
  return _Parser(
    description=doc,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )


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
  return flags.parse_args(plain), overrides


def main(run: Callable[[Sequence[str]], None]) -> None:
  """Runs a command on the process's arguments and exits with its code."""
  sys.exit(call(run, sys.argv[1:]))


def call(run: Callable[[Sequence[str]], None], argv: Sequence[str]) -> int:
  """Runs a command; errors that are the user's become one line on stderr."""
  try:
    run(argv)
  except errors.InputError as e:
    print(f'error: {e}', file=sys.stderr)
    return BAD_INPUT
  except errors.StoppedError as e:
    print(f'stopped: {e}', file=sys.stderr)
    return STOPPED
  except InterruptedRunError as e:
    print(f'interrupted: {e}', file=sys.stderr)
    return INTERRUPTED
  except KeyboardInterrupt:
    print(
      'interrupted: nothing was saved after the last checkpoint',
      file=sys.stderr,
    )
    return 130
  except OSError as e:
    if e.errno not in DISK_ERRORS:
      raise
    print(
      f'stopped: the disk failed: {e}; mend it and run the same command again: '
      'the last checkpoint is whole',
      file=sys.stderr,
    )
    return STOPPED
  return DONE
