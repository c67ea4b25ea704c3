"""The two ways a run ends badly without a bug: bad input, and a stopped run."""


class InputError(ValueError):
  """Something the user gave is wrong.

  The message is one line: the value, the place, and the fix. Commands print it
  without a stack trace and exit with code 2.
  """


class StoppedError(RuntimeError):
  """Training cannot go on (loss not finite, say); its state is kept.

  Commands print the message without a stack trace and exit with code 3.
  """
