"""Gloo's lines on its connections, kept off standard output.

JAX connects processes on CPUs by Gloo, which prints a line for each device and
each set of devices that it is in, and cannot be told not to:

  [Gloo] Rank 0 is connected to 1 peer ranks. Expected number of connected ...
"""

import contextlib
import ctypes
import os
import re
import sys
import tempfile
from collections.abc import Iterator

from moejax.core import terminal

# A line is written in these pieces, by several threads at once: a piece may
# stand in the line of another thread, and a number on a line of its own.
PIECES = re.compile(
  rb'\[Gloo\] Rank | is connected to | peer ranks\. ?'
  rb'|Expected number of connected peer ranks is : '
)
NUMBERS = re.compile(rb'[\d ]*\n?')
STDOUT = 1  # the descriptor that C code writes to


@contextlib.contextmanager
def quiet(several: bool = True) -> Iterator[None]:
  """Leaves Gloo's lines out of standard output while the block runs.

  Whatever else the block prints comes at its end. Text of other lines into
  which Gloo has written is kept, except for lines of nothing but digits.

  Args:
    several: whether the run has several processes; one connects nothing.
  """
  if not several:
    yield
    return
  with tempfile.TemporaryFile() as kept:
    sys.stdout.flush()
    original = os.dup(STDOUT)
    try:
      os.dup2(kept.fileno(), STDOUT)
      yield
    finally:
      sys.stdout.flush()
      ctypes.CDLL(None).fflush(None)  # what C code has not written yet
      os.dup2(original, STDOUT)
      os.close(original)
      kept.seek(0)
      with terminal.outlived(), open(STDOUT, 'wb', closefd=False) as out:
        out.write(without_lines(kept.read()))


def without_lines(text: bytes) -> bytes:
  """A text without the lines that Gloo has written into it."""
  rest = PIECES.sub(b'', text)
  if rest == text:
    return text
  lines = rest.splitlines(keepends=True)
  return b''.join(line for line in lines if not NUMBERS.fullmatch(line))
