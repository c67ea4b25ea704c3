"""A process that comes to a collective long after the others ends no run."""

import pathlib

import pytest
from helpers import processes

from moejax.core import exits

pytestmark = pytest.mark.slow  # it starts processes
LATE = pathlib.Path(processes.__file__).with_name('late.py')


@pytest.mark.soak
def test_a_process_may_come_late_to_the_first_collectives():
  """As when its programs take longer to compile, on a busy machine."""
  with processes.Processes(2, 2, [], program=(str(LATE),)) as two:
    ended = two.wait()
  # The rows 0, 1, 2 and 3 on a mesh of two by two.
  sums = [[2, 4, 2, 4], [1, 1, 5, 5], [6, 6, 6, 6]]
  for process in ended:
    assert process.code == exits.DONE, ended
    assert f'sums {sums}' in process.out
