"""Bytes of instructions to and from HBM, worked out by hand."""

import pathlib

import pytest

from moejax.parallel import program_text
from moejax.plan import traffic

TEXT = (pathlib.Path(__file__).parent / 'moved_program.txt').read_text()
ROW, ALL, INDICES = 4 * 100, 4 * 900, 4 * 2


@pytest.mark.parametrize(
  ('name', 'num_bytes'),
  [
    ('near', ALL),  # its result is not in HBM
    ('reads', ROW + ROW),
    ('writes', ROW + ROW),  # the other rows stay where they are
    ('begins', ROW + ROW),
    ('ends', 0),
    ('reads_all', ALL + ROW + ALL),
    # Two indices, and two rows: the old ones and the added ones are read.
    ('scatters', 2 * ROW + INDICES + 2 * ROW + 2 * ROW),
    ('slice', 2 * ROW),
    ('update', 2 * ROW),
    ('sums', 3 * ALL),
    ('gathers', ALL + 2 * ALL),
    ('scattered', 3 * 2 * ROW),
    # The old row and the added one are read, their sum is written.
    ('accumulates', 3 * ROW),
    ('starts', ROW + ROW),
    ('out', 2 * ROW),
  ],
)
def test_bytes_of(name, num_bytes):
  program = program_text.Program(TEXT)
  (at,) = (
    at for at in program.walk() if at.instruction.name == name and not at.fused
  )
  assert traffic.of(program, at) == num_bytes
