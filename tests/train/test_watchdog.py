import subprocess
import sys
import threading
import time

from moejax.core import exits
from moejax.train import watchdog
from moejax.train.watchdog import Watchdog


def hangs_here(until):
  until.wait(20)


def test_it_prints_where_every_thread_stands_and_goes_on():
  told, go = [], threading.Event()
  thread = threading.Thread(target=hangs_here, args=(go,))
  thread.start()
  said = threading.Event()

  def say(text):
    told.append(text)
    if len(told) == 2:  # it warns again
      said.set()

  with Watchdog(0.1, say) as dog:
    dog.beat('step 7')
    assert said.wait(20)
  go.set()
  thread.join()
  first = told[0]
  assert first.startswith('watchdog: nothing has ended for 0 s, since step 7;')
  assert 'train.watchdog_s=0.1' in first
  assert 'in hangs_here' in first
  assert 'in test_it_prints_where_every_thread_stands' in first


def test_it_is_quiet_while_steps_end_and_ends_with_the_block():
  told = []
  with Watchdog(5.0, told.append) as dog:
    for step in range(20):
      dog.beat(f'step {step}')
      time.sleep(0.01)
  assert told == []
  names = {thread.name for thread in threading.enumerate()}
  assert 'moejax-watchdog' not in names


def test_it_can_give_the_process_up():
  left = threading.Event()
  with Watchdog(0.05, lambda _: None, left.set):
    assert left.wait(20)


def test_zero_seconds_is_no_watchdog():
  with Watchdog(0, lambda _: None) as dog:
    dog.beat('x')
    assert 'moejax-watchdog' not in {t.name for t in threading.enumerate()}


def test_stacks_name_the_innermost_call_first():
  lines = watchdog.stacks().splitlines()
  own = [line for line in lines if 'test_watchdog.py' in line]
  assert 'in test_stacks_name_the_innermost_call_first' in own[0]


HANGS = """
import sys, time
from moejax.run import resources
from moejax.train.watchdog import Watchdog

with Watchdog(0.2, resources._say, resources._leave) as dog:
  dog.beat('step 3')
  time.sleep(60)
"""


def test_a_run_that_hangs_ends_with_code_4():
  done = subprocess.run(
    [sys.executable, '-c', HANGS],
    capture_output=True,
    text=True,
    check=False,
    timeout=60,
  )
  assert done.returncode == exits.STUCK == 4
  assert 'since step 3;' in done.stderr
