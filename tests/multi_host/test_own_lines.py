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


def test_the_alarm_of_a_slow_compilation_is_left_out():
  """On a busy machine a program takes over two minutes to compile."""
  text = (
    'E0123 12:00:00.1 12 slow_operation_alarm.cc:73] \n'
    '********************************\n'
    '[Compiling module jit__read for CPU] Very slow compile? If you want to '
    'file a bug, run with envvar XLA_FLAGS=--xla_dump_to=/tmp/foo\n'
    '********************************\n'
    'piqa: acc 0.5000\n'
  )
  assert processes.own_lines(text) == ['piqa: acc 0.5000']
