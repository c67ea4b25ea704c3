"""core/interrupts.py: a second Ctrl-C ends a process wherever it is."""

import signal
import subprocess
import sys
import time

import pytest

from moejax.core import exits, interrupts

# C code that lets go of Python's lock and takes minutes, as a compiler does. It
# is ready when it is in there, as a signal before that is an exception at once.
COMPILING = """
import hashlib, signal, threading
from moejax.core import exits
def run(argv):
  {handler}
  threading.Timer(1, lambda: print('ready', flush=True)).start()
  hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)
exits.main(run)
"""
FLAG = 'signal.signal(signal.SIGINT, lambda *_: None)'
# Python code that takes minutes, and is not unwound.
WAITING = """
import time
from moejax.core import exits
def run(argv):
  try:
    print('ready', flush=True)
    time.sleep(600)
  finally:
    time.sleep(600)
exits.main(run)
"""
FORKING = """
import os, signal, time
from moejax.core import exits
def run(argv):
  seen = []
  signal.signal(signal.SIGINT, lambda *_: seen.append(None))
  os.kill(os.getpid(), signal.SIGINT)
  child = os.fork()
  if not child:
    os.kill(os.getpid(), signal.SIGINT)
    os._exit(0)
  os.waitpid(child, 0)
  time.sleep(0.2)
  print('saved')
exits.main(run)
"""


def _start(script):
  return subprocess.Popen(
    [sys.executable, '-W', 'ignore', '-c', script],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


@pytest.mark.parametrize(
  'script',
  [COMPILING.format(handler='pass'), COMPILING.format(handler=FLAG), WAITING],
  ids=['exception', 'flag', 'unwinding'],
)
def test_the_second_ctrl_c_ends_a_process_that_compiles(script):
  process = _start(script)
  try:
    assert process.stdout.readline() == 'ready\n'
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
      # Two that come at the same moment are one to the system.
      process.send_signal(signal.SIGINT)
      time.sleep(0.05)
    assert process.poll() == exits.INTERRUPTED
    assert process.communicate() == ('', f'{interrupts.LINE}\n')
  finally:
    process.kill()
    process.communicate()


def test_one_ctrl_c_is_one_although_a_child_gets_it_too():
  process = _start(FORKING)
  assert process.communicate(timeout=60) == ('saved\n', '')
  assert process.returncode == exits.DONE
