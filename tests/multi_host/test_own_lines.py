"""What the other tests here take for our own lines."""

from helpers import processes


def test_lines_of_gloo_torn_by_its_threads_are_left_out():
  # Seen: two threads wrote at the same time.
  text = (
    '[Gloo] Rank [Gloo] Rank 01 is connected to  is connected to 1 peer ranks. '
    'Expected number of connected peer ranks is : 1\n'
    '3 peer ranks. Expected number of connected peer ranks is : 3\n'
    '\n'
    'Training: 20 steps\n'
    ' is connected to 3 peer ranks. Expected number of connected peer ranks is '
    ': 3\n'
    '[Gloo] Rank step  2\n'
    'E0123 12:00:00 something.cc\n'
  )
  assert processes.own_lines(text) == ['Training: 20 steps', 'step  2']
