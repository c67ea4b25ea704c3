"""Lines of JSON from a process that examines one thing after the other."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from typing import Any

BEGIN, END = 'begin', 'end'


def begin(name: str) -> None:
  """Says what is examined next."""
  _write({BEGIN: name})


def end(result: Any) -> None:
  """Says what came out; there may be several of one thing."""
  _write({END: result})


def _write(value: dict[str, Any]) -> None:
  sys.stdout.write(json.dumps(value) + '\n')
  sys.stdout.flush()


class EndedError(Exception):
  """The process ended before it was done; the message says how.

  Attributes:
    name: what it examined at that time.
  """

  def __init__(self, name: str, message: str):
    super().__init__(message)
    self.name = name


def of(
  module: str, words: Sequence[str], limit_s: float
) -> Iterator[tuple[str, Any]]:
  """Runs a module as a process: what is examined, and each result.

  Args:
    module: it is run by `python -m`, and finds what this process finds.
    words: its arguments.
    limit_s: seconds after which it is killed.

  Raises:
    EndedError: it did not end by itself, or not well.
  """
  command = [sys.executable, '-P', '-m', module, *words]
  path = os.pathsep.join(sys.path)
  name, late, read = '', threading.Event(), False
  with (
    tempfile.TemporaryFile() as errors,
    subprocess.Popen(
      command,
      stdout=subprocess.PIPE,
      stderr=errors,
      text=True,
      env={**os.environ, 'PYTHONPATH': path},
    ) as process,
  ):

    def kill() -> None:
      late.set()
      process.kill()

    timer = threading.Timer(limit_s, kill)
    timer.start()
    try:
      for line in process.stdout or ():
        value = _value(line)
        name = value.get(BEGIN, name)
        if END in value:
          yield name, value[END]
      read = True
    finally:
      timer.cancel()
      if not read:  # nobody wants the rest
        process.kill()
    if process.wait():
      errors.seek(0)
      said = errors.read().decode(errors='replace').split('\n')
      raise EndedError(name, _how(process.returncode, late.is_set(), said))


def _value(line: str) -> dict[str, Any]:
  """A line as it was written; {} for what another one printed."""
  try:
    value = json.loads(line)
  except ValueError:
    return {}
  return value if isinstance(value, dict) else {}


def _how(code: int, late: bool, said: Sequence[str]) -> str:
  if late:
    return 'takes so long that it was ended'
  if code < 0:
    return f'ends the process by {signal.Signals(-code).name}'
  last = next((line for line in reversed(said) if line.strip()), '')
  return f'ends the process with exit code {code}: {last.strip()}'
