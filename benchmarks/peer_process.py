"""PeerProcess: one side of a benchmark, in a process that waits to be asked."""

import json
import pathlib
import subprocess
from typing import Any

from moejax.core import errors


class PeerProcess:
  """A program that answers each line it reads with a line of JSON."""

  def __init__(
    self, python: str, program: str, folder: pathlib.Path, needs: str
  ):
    """Starts the program.

    Args:
      python: path of the Python that runs it.
      program: for `python -c`; its argument is the folder.
      folder: where both sides meet.
      needs: what its Python must have, in words.

    Raises:
      InputError: the Python cannot be run.
    """
    # A file, since a pipe that nobody reads stops its writer when it is full.
    self._errors = folder / 'stderr.txt'
    self._python, self._needs = python, needs
    try:
      with self._errors.open('w') as file:
        self._process = subprocess.Popen(
          [python, '-c', program, str(folder)],
          stdin=subprocess.PIPE,
          stdout=subprocess.PIPE,
          stderr=file,
          text=True,
        )
    except OSError as e:
      raise errors.InputError(
        f'--peer_python={python} cannot be run: {e.strerror}'
      ) from None

  def read(self) -> Any:
    """The next line of JSON that the program prints.

    Raises:
      InputError: it ended instead.
    """
    assert self._process.stdout
    for line in self._process.stdout:
      if line.startswith('{'):
        return json.loads(line)
    lines = self._errors.read_text().strip().splitlines() or ['no error']
    raise errors.InputError(
      f'the peer failed ({self._python}): {lines[-1][-300:]}; it needs a '
      f'Python with {self._needs}, see --help'
    )

  def ask(self, what: Any) -> Any:
    """The answer to one line."""
    assert self._process.stdin
    print(what, file=self._process.stdin, flush=True)
    return self.read()

  def end(self) -> None:
    """Ends the process."""
    self._process.kill()
    self._process.communicate()
