"""Flags whose values have bounds, and the line that an error is."""

import io
import math
import os
import subprocess
import sys

import pytest

from moejax.core import command, errors, exits


def _parsed(argv, **types):
  flags = command.parser('a command')
  for name, kind in types.items():
    flags.add_argument(f'--{name}', type=kind)
  return command.parse(flags, argv)[0]


@pytest.mark.parametrize(
  ('kind', 'value', 'words'),
  [
    (command.seed, str(2**80), f'--x={2**80} must be from 0 to {2**63 - 1}'),
    (command.seed, '-1', '--x=-1 must be from 0'),
    (command.seed, '1.5', '--x=1.5 is not a whole number'),
    (command.number(int, 1), '0', '--x=0 must be 1 or more'),
    (command.number(float, 0), 'nan', '--x=nan must be 0 or more'),
    (command.number(float, 0), 'inf', '--x=inf must be 0 or more, and finite'),
    (command.number(float, 0, 1), '1.5', '--x=1.5 must be from 0 to 1'),
    (command.number(float, most=1), '2', '--x=2 must be 1 or less'),
    (command.number(float), '-inf', '--x=-inf must be finite'),
    (command.number(float), 'some', '--x=some is not a number'),
    (command.text, 'caf\udce9', 'is not UTF-8: character 3'),
  ],
)
def test_a_value_out_of_bounds_is_one_line(kind, value, words):
  with pytest.raises(errors.InputError) as caught:
    _parsed([f'--x={value}'], x=kind)
  assert words in str(caught.value)
  assert str(caught.value).isprintable()


def test_values_within_bounds_are_taken():
  found = _parsed(
    ['--a=0', f'--b={2**63 - 1}', '--c=0.5', '--d=caf\u00e9 \N{SNOWMAN}'],
    a=command.number(int, 0, 0),
    b=command.seed,
    c=command.number(float, 0, 1),
    d=command.text,
  )
  assert (found.a, found.b, found.c) == (0, 2**63 - 1, 0.5)
  assert found.d == 'caf\u00e9 \N{SNOWMAN}'
  assert math.isfinite(found.c)


class Terminal(io.StringIO):
  """What says that it is a terminal."""

  def isatty(self):
    return True


@pytest.mark.parametrize('terminal', [True, False])
def test_an_error_breaks_at_words_on_a_terminal_alone(terminal, monkeypatch):
  out = Terminal() if terminal else io.StringIO()
  monkeypatch.setattr('sys.stderr', out)
  monkeypatch.setenv('COLUMNS', '40')
  message = 'train.steps=0 must be 1 or more; ' * 3 + 'x' * 50

  def fail(argv):
    raise errors.InputError(message)

  assert exits.call(fail, []) == exits.BAD_INPUT
  lines = out.getvalue().splitlines()
  assert ' '.join(lines) == f'error: {message}'
  if terminal:
    assert len(lines) > 3
    assert all(len(line) <= 40 for line in lines[:-1])
    assert lines[-1] == 'x' * 50
  else:
    assert len(lines) == 1


@pytest.mark.parametrize(
  ('argv', 'words'),
  [
    (['--x='], '--x= is empty'),
    (['--x', ''], '--x= is empty'),
    (['--x=1', '--x=2'], '--x=1 and --x=2 contradict each other; give one'),
  ],
)
def test_a_flag_has_one_value_that_is_not_empty(argv, words):
  with pytest.raises(errors.InputError, match=words):
    _parsed(argv, x=str)
  assert _parsed(['--x=1', '--x=1'], x=str).x == '1'


def test_a_path_below_home_is_found_there(monkeypatch):
  """A shell leaves the ~ of --x=~/runs as it is."""
  monkeypatch.setenv('HOME', '/home/me')
  assert _parsed(['--x=~/runs'], x=str).x == '/home/me/runs'
  for other in ('~', 'a~/b', '~somebody/x', '/~/x'):
    assert _parsed([f'--x={other}'], x=str).x == other


LINES = """
from moejax.core import exits
def run(argv):
  for _ in range({}):
    print('a line', flush={})
exits.main(run)
"""


@pytest.mark.parametrize(
  ('lines', 'flush', 'code'),
  [(10**6, True, exits.NOT_READ), (3, False, exits.DONE)],
)
def test_a_reader_that_has_gone_gets_no_stack(lines, flush, code):
  """As `| head -1` goes: in the middle of it, or before it is all flushed."""
  process = subprocess.Popen(
    [sys.executable, '-c', LINES.format(lines, flush)],
    # An empty PYTHONUNBUFFERED is none.
    env={**os.environ, 'PYTHONUNBUFFERED': ''},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
  )
  process.stdout.close()
  with process.stderr as err:
    assert err.read() == b''
  assert process.wait() == code


@pytest.mark.parametrize(
  ('word', 'near'),
  [
    ('--max-rows=4', 'did you mean --max_rows?'),
    ('--max_row', 'did you mean --max_rows?'),
    ('--other=max_rows', ''),
    ('max_rows', ''),
  ],
)
def test_an_unknown_flag_names_the_nearest_of_the_command_and_its_parts(
  word, near
):
  plain, parts = command.parser('a command'), command.parser('with parts')
  part = parts.add_subparsers().add_parser('part')
  for flags in (plain, part):
    flags.add_argument('--max_rows')
  for flags, argv in ((plain, [word]), (parts, ['part', word])):
    with pytest.raises(errors.InputError) as caught:
      command.parse(flags, argv)
    line = str(caught.value)
    assert line.startswith(f'unrecognized arguments: {word}')
    assert line.endswith('; see --help')
    assert near in line if near else 'did you mean' not in line
