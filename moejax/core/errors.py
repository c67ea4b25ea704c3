"""Errors that end a run and are not bugs; `exits` has their exit codes."""

from typing import Any


class InputError(ValueError):
  """Something that the user set is wrong.

  The message is one line: the value, the place, and the fix. Commands print it
  without a stack trace and exit with code 2.
  """


class StoppedError(RuntimeError):
  """Training cannot go on, for example because its loss is not finite.

  Its checkpoints are kept. Commands print the message without a stack trace
  and exit with code 3.
  """


class LostHostError(RuntimeError):
  """A process of the run did not start, or is lost; the message names it.

  Commands print the message without a stack trace and exit with code 6.
  """


class InterruptedRunError(Exception):
  """A signal stopped the run after its state was saved."""


class DoesNotFitError(Exception):
  """A plan needs more memory than the chips have."""


def shown(path: Any) -> str:
  r"""A path as one line of a message, whatever bytes it has.

  Example: a line feed in a name is shown as a backslash and an `n`: r'a\nb'.
  """
  return ''.join(c if c.isprintable() else repr(c)[1:-1] for c in str(path))
