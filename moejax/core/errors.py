"""The ways a run ends badly without a bug."""

from typing import Any


class InputError(ValueError):
  """Something the user gave is wrong.

  The message is one line: the value, the place, and the fix. Commands print it
  without a stack trace and exit with code 2.
  """


class StoppedError(RuntimeError):
  """Training cannot go on (loss not finite, say); its state is kept.

  Commands print the message without a stack trace and exit with code 3.
  """


class LostHostError(RuntimeError):
  """A process of the run never came, or is lost; the message names it.

  Commands print the message without a stack trace and exit with code 6.
  """


class InterruptedRunError(Exception):
  """A signal stopped the run after its state was saved."""


class DoesNotFitError(Exception):
  """A plan needs more memory than the chips have."""


def shown(path: Any) -> str:
  r"""A path for a message: one line, whatever bytes its name has.

  Example:
    a name with a line feed, 'a\nb', as r'a\nb'
  """
  return ''.join(c if c.isprintable() else repr(c)[1:-1] for c in str(path))
