"""Calls of the programs to which a sweep hands its runs over."""

import os
import subprocess
from collections.abc import Mapping, Sequence

from moejax.core import errors


def output(
  words: Sequence[str],
  refused: str,
  remedy: str = '',
  environment: Mapping[str, str] | None = None,
) -> str:
  """What a program prints.

  Args:
    words: the program and its arguments.
    refused: the error if it fails, before what it said.
    remedy: the error behind that.
    environment: variables beside those of this process.

  Raises:
    InputError: the program failed.
  """
  done = subprocess.run(
    words,
    env={**os.environ, **(environment or {})},
    capture_output=True,
    text=True,
    check=False,
  )
  if done.returncode:
    reason = ' '.join((done.stderr or done.stdout).split())
    raise errors.InputError(f'{refused}{reason}{remedy}')
  return done.stdout
