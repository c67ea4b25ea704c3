"""Gloo's lines are left out of standard output, and nothing else is."""

import os

import pytest

from moejax.parallel import gloo

LINE = (
  '[Gloo] Rank 0 is connected to 1 peer ranks. Expected number of connected '
  'peer ranks is : 1\n'
)
# Seen: two threads wrote at the same time.
TORN = (
  '[Gloo] Rank [Gloo] Rank 01 is connected to  is connected to 1 peer ranks. '
  'Expected number of connected peer ranks is : 1\n'
  '3 peer ranks. Expected number of connected peer ranks is : 3\n'
  '\n'
)


@pytest.mark.parametrize(
  ('text', 'wanted'),
  [
    (LINE * 3, ''),
    (TORN, ''),
    (f'one\n{LINE}two\n', 'one\ntwo\n'),
    ('[Gloo] Rank step 2\n1 is connected to 3 peer ranks. \n', 'step 2\n'),
    # Without Gloo every line is another's.
    ('12\n\nx', '12\n\nx'),
  ],
)
def test_what_gloo_wrote_is_left_out(text, wanted):
  assert gloo.without_lines(text.encode()).decode() == wanted


def test_the_lines_of_a_block_are_written_at_its_end(capfd):
  with gloo.quiet():
    os.write(1, LINE.encode())
    os.write(1, b'of another library\n')
    assert capfd.readouterr().out == ''
  os.write(1, LINE.encode())
  assert capfd.readouterr().out == f'of another library\n{LINE}'


def test_an_error_in_the_block_leaves_the_output_as_it_was(capfd):
  with pytest.raises(KeyError), gloo.quiet():
    raise KeyError('x')
  os.write(1, b'after\n')
  assert capfd.readouterr().out == 'after\n'
