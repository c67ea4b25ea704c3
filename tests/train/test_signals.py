import os
import pty
import signal
import subprocess
import sys
import threading

import pytest

from moejax.core import exits
from moejax.train import signals
from moejax.train.signals import StopSignal

REACHED = 'reached_preemption_sync_point'


def send(which):
  os.kill(os.getpid(), which)


@pytest.fixture(autouse=True)
def handlers_of_the_test():
  """A known handler before, and checks that it is back after."""
  seen = []
  handler = lambda number, frame: seen.append(signal.Signals(number).name)
  before = {
    which: signal.signal(which, handler)
    for which in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
  }
  yield seen
  for which, old in before.items():
    assert signal.getsignal(which) is handler
    signal.signal(which, old)


@pytest.mark.parametrize(
  'which', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
)
def test_a_signal_is_a_flag_and_nothing_else(which, handlers_of_the_test):
  with StopSignal() as stop:
    assert stop.requested is None
    send(which)
    assert stop.requested == which.name
  assert stop.requested == which.name
  assert handlers_of_the_test == []


def test_the_second_ctrl_c_raises():
  with StopSignal() as stop:
    send(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
      send(signal.SIGINT)
    assert stop.requested == 'SIGINT'


@pytest.mark.parametrize('which', [signal.SIGTERM, signal.SIGHUP])
def test_the_second_of_a_notice_is_ignored(which):
  with StopSignal() as stop:
    for _ in range(3):
      send(which)
    assert stop.requested == which.name


def test_under_nohup_a_hangup_stops_nothing():
  before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
  try:
    with StopSignal() as stop:
      send(signal.SIGHUP)
      assert stop.requested is None
    # Nor before a run trains: Ctrl-C and SIGTERM are errors there.
    assert exits.call(lambda _: send(signal.SIGHUP), []) == exits.DONE
  finally:
    signal.signal(signal.SIGHUP, before)


def test_a_hangup_before_training_is_an_interruption():
  ended = exits.call(lambda _: send(signal.SIGHUP), [])
  assert ended == exits.INTERRUPTED


def test_one_ctrl_c_after_sigterm_does_not_tear_the_save():
  with StopSignal() as stop:
    send(signal.SIGTERM)
    send(signal.SIGINT)
    assert stop.requested == 'SIGTERM'
    with pytest.raises(KeyboardInterrupt):
      send(signal.SIGINT)


def test_the_handlers_from_before_are_back(handlers_of_the_test):
  with pytest.raises(RuntimeError, match='torn'), StopSignal():
    raise RuntimeError('torn')
  send(signal.SIGTERM)
  assert handlers_of_the_test == ['SIGTERM']


def test_in_another_thread_it_does_nothing(handlers_of_the_test):
  found = []

  def work():
    with StopSignal() as stop:
      send(signal.SIGTERM)
      found.append(stop.requested)

  thread = threading.Thread(target=work)
  thread.start()
  thread.join()
  assert found == [None]
  assert handlers_of_the_test == ['SIGTERM']


LOOP = """
import sys, time
from moejax.train import signals
from moejax.train.signals import StopSignal

with StopSignal() as stop:
  sys.stdout.write('ready\\n')
  sys.stdout.flush()
  while not stop.requested:
    time.sleep(0.01)
sys.stdout.write(f'saved on {stop.requested}\\n')
sys.exit(75)
"""


# Prints all the time, also in the moment in which its terminal is closed.
SHOWING = """
import fcntl, pathlib, sys, termios, time

fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from moejax.core import errors, exits
from moejax.run import screen
from moejax.train.signals import StopSignal

def train(argv):
  with screen.Screen(10**9) as shown, StopSignal() as stop:
    for step in range(1, 10**6):
      shown.update(step, {'loss': 1.0})
      shown.line(f'step {step}')
      if stop.requested and step % 50 == 0:
        break
      time.sleep(0.001)
  pathlib.Path(argv[0]).write_text(f'saved on {stop.requested}')
  raise errors.InterruptedRunError('the state is saved')

sys.exit(exits.call(train, sys.argv[1:]))
"""


@pytest.mark.soak
def test_when_its_terminal_is_closed_a_run_saves_and_ends(tmp_path):
  master, slave = pty.openpty()
  process = subprocess.Popen(
    [sys.executable, '-c', SHOWING, str(tmp_path / 'saved')],
    stdin=slave,
    stdout=slave,
    stderr=slave,
    start_new_session=True,
  )
  os.close(slave)
  text = b''
  while b'step 20' not in text:
    text += os.read(master, 1000)
  os.close(master)
  assert process.wait(60) == exits.INTERRUPTED
  assert (tmp_path / 'saved').read_text() == 'saved on SIGHUP'


@pytest.mark.parametrize('which', [signal.SIGINT, signal.SIGTERM])
def test_a_real_process_ends_in_its_own_time(which):
  process = subprocess.Popen(
    [sys.executable, '-c', LOOP],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  assert process.stdout.readline() == 'ready\n'
  process.send_signal(which)
  out, err = process.communicate(timeout=30)
  assert (out, err) == (f'saved on {which.name}\n', '')
  assert process.returncode == 75


def test_a_preemption_notice_is_for_after_the_step_that_jax_names(monkeypatch):
  asked = []

  def reached(step):
    asked.append(step)
    return step == 3

  monkeypatch.setattr(signals.multihost_utils, REACHED, reached)
  with StopSignal() as stop:
    found = [stop.after(step) for step in range(1, 5)]
    assert found == [None, None, *[signals.PREEMPTED] * 2]
    send(signal.SIGTERM)  # the next does not tear the save
  assert asked == [1, 2, 3]


def test_without_the_service_a_notice_is_no_error(monkeypatch):
  def reached(step):
    raise RuntimeError('Preemption sync manager has not been initialized.')

  monkeypatch.setattr(signals.multihost_utils, REACHED, reached)
  with StopSignal() as stop:
    assert stop.after(1) is None


PREEMPTED = """
import os, signal, socket, sys, time
import jax
from moejax.train import signals
from moejax.train.signals import StopSignal

with socket.socket() as s:
  s.bind(('localhost', 0))
  port = s.getsockname()[1]
jax.distributed.initialize(f'localhost:{port}', 1, 0)
with StopSignal() as stop:
  for step in range(1, 3000):
    if step == 3:
      os.kill(os.getpid(), signal.SIGTERM)
    if found := stop.after(step):
      break
    time.sleep(0.01)
  os.kill(os.getpid(), signal.SIGTERM)
  os.kill(os.getpid(), signal.SIGINT)
  time.sleep(0.1)
  sys.stdout.write(f'{found}; step {step}')
  sys.stdout.flush()
jax.distributed.shutdown()
"""


@pytest.mark.soak
def test_where_jax_is_distributed_sigterm_is_its_preemption_notice():
  """Really: JAX's service in one process, and two signals to it."""
  done = subprocess.run(
    [sys.executable, '-c', PREEMPTED],
    capture_output=True,
    text=True,
    check=False,
    timeout=120,
  )
  text, step = done.stdout.split('; step ')
  assert text == signals.PREEMPTED, done.stderr
  assert int(step) >= 3
  assert done.returncode == 0, done.stderr
