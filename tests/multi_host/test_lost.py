"""Whatever happens to one process, none of the others is left waiting.

More of it, with real processes too, is in tests/soak/test_many_hosts.py; what
they say to each other is tested in tests/parallel/test_processes.py.
"""

import signal
import time

import pytest
from helpers import processes

from moejax.core import exits

pytestmark = pytest.mark.slow  # each starts processes
# 'At once' is less than a second on a machine that has time, and no silence
# is waited for; this is for machines that have none.
AT_ONCE_S = 30


@pytest.mark.parametrize('victim', [0, pytest.param(1, marks=pytest.mark.soak)])
def test_a_killed_process_ends_the_others(victim):
  with processes.steps(3, '--host-timeout=300') as three:
    three.wait_for_line(2, 'step 20')
    three.all[victim].kill()
    killed = time.monotonic()
    ended = three.wait()
  assert max(e.at for e in ended) - killed < AT_ONCE_S
  others = [e for index, e in enumerate(ended) if index != victim]
  for index, other in zip({0, 1, 2} - {victim}, others, strict=True):
    assert other.code == exits.LOST, other
    front = f'process {index}: ' if index else ''
    # Without process 0 JAX's client may have its say as well, before or after.
    (line,) = [x for x in other.err if 'lost: ' in x]
    assert line.startswith(f'{front}lost: process {victim} (')
    assert 'was killed' in line
    assert 'start all processes again' in line
    assert victim == 0 or other.err == [line]


@pytest.mark.soak
@pytest.mark.parametrize(
  'name', ['SIGTERM', pytest.param('SIGHUP', marks=pytest.mark.soak)]
)
def test_a_signal_to_one_stops_all_after_the_same_step(name):
  with processes.steps(2) as two:
    two.wait_for_line(1, 'step 20')
    two.all[1].send_signal(getattr(signal, name))
    first, second = two.wait()
  assert first.code == second.code == exits.INTERRUPTED
  (line,) = first.err
  assert line.startswith(f'interrupted: {name}')
  assert ' at step ' in line
  assert second.err == [f'process 1: {line}']


# tests/multi_host/test_runs.py has a real run with bad input to process 1.
@pytest.mark.soak
@pytest.mark.parametrize('victim', [0])
def test_bad_input_to_one_ends_all(victim):
  with processes.steps(2, '--host-timeout=300', f'--fail={victim}') as two:
    two.wait_for_line(1, 'step 20')
    failed = time.monotonic()
    ended = two.wait()
  assert max(e.at for e in ended) - failed < AT_ONCE_S
  one, other = ended[victim], ended[1 - victim]
  assert one.code == exits.BAD_INPUT
  front = 'process 1: '
  assert one.err == [f'{front if victim else ""}error: no such file']
  assert other.code == exits.LOST
  (line,) = other.err
  assert line.startswith(f'{"" if victim else front}lost: process {victim} (')
  assert line.endswith(') stopped: error: no such file')


@pytest.mark.soak
def test_a_process_that_never_comes_is_named():
  with processes.steps(2, '--join-timeout=15', of=4) as two:
    first, second = two.wait()
  assert first.code == second.code == exits.LOST
  (line,) = first.err
  assert line.startswith('lost: after 15 s process 2, 3 of 4 had not come to ')
  assert second.err == [f'process 1: {line}']
