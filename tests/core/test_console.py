"""core/console.py: a closed pipe ends no work, and is never silent."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

from moejax.core import exits
from moejax.run import screen

ROOT = pathlib.Path(__file__).parents[2]

OUTPUT = """
from moejax.core import exits
from moejax.core.console import Console
def run(argv):
  for _ in range(10**5):
    Console().print('a line')
exits.main(run)
"""
WORK = """
from moejax.core import exits, terminal
from moejax.core.console import Console
from moejax.run.screen import Screen
def run(argv):
  with Screen(10**4, console=Console(stderr={stderr})) as shown:
    for step in range(10**4):
      shown.line(f'step {{step}}')
  terminal.{end}('saved')
exits.main(run)
"""
WRONG = """
from moejax.core import errors, exits
def run(argv):
  raise errors.InputError('a bad value')
exits.main(run)
"""


def _ended(script, closed, other):
  """Runs a script of which nobody reads `closed`; its code and its `other`."""
  process = subprocess.Popen(
    [sys.executable, '-c', script],
    env={**os.environ, 'PYTHONUNBUFFERED': ''},  # an empty one is none
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  getattr(process, closed).close()
  with getattr(process, other) as stream:
    text = stream.read()
  return process.wait(), text


@pytest.mark.parametrize(
  ('script', 'closed', 'code', 'other'),
  [
    (OUTPUT, 'stdout', exits.NOT_READ, ''),
    (
      WORK.format(stderr=False, end='note'),
      'stdout',
      exits.DONE,
      f'{screen.GOES_ON}\nsaved\n',
    ),
    (WORK.format(stderr=True, end='say'), 'stderr', exits.DONE, 'saved\n'),
    (WRONG, 'stderr', exits.BAD_INPUT, ''),
  ],
  ids=['output', 'a run', 'progress', 'an error'],
)
def test_the_reader_has_gone(script, closed, code, other):
  """Output ends as with SIGPIPE; work goes on to its end, and says so once."""
  read = 'stderr' if closed == 'stdout' else 'stdout'
  assert _ended(script, closed, read) == (code, other)


def test_no_console_is_rich_s_own():
  """That one would end the process with exit code 1, without a word."""
  own = re.compile(r'rich\.console\.Console\(')
  imported = re.compile(r'from rich\.console import .*\bConsole\b')
  for folder in ('moejax', 'benchmarks'):
    for path in (ROOT / folder).rglob('*.py'):
      text = path.read_text()
      makes = own.search(text) or (
        imported.search(text) and re.search(r'(?<![.\w])Console\(', text)
      )
      assert not makes, f'{path}: take core.console.Console'
