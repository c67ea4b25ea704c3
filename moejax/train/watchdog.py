"""Prints the stacks of all threads when no step ends for too long."""

import faulthandler
import os
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

POLL_S = 1.0


class Watchdog:
  """Prints the stacks of all Python threads if `beat` is not called in time.

    with Watchdog(1800, say=sys.stderr.write) as watchdog:
      for step in range(...):
        ...
        watchdog.beat(f'step {step}')

  The run goes on, because it may only be slow. The next warning comes after the
  same time without a `beat`. With `leave` the process ends instead, so that a
  scheduler starts it again.

  The watchdog is a thread of Python: it cannot print while C code holds the
  interpreter. JAX does not hold it while it waits for devices and other hosts.
  """

  def __init__(
    self,
    seconds: float,
    say: Callable[[str], Any],
    leave: Callable[[], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
  ):
    """Does not start the thread yet.

    Args:
      seconds: the longest time between two beats; 0 never warns.
      say: called with the text of a warning.
      leave: called after a warning; ends the process.
      clock: returns the time in seconds.
    """
    self._seconds = seconds
    self._say = say
    self._leave = leave
    self._clock = clock
    self._done = threading.Event()
    self._last = clock()
    self._last_event = 'no step yet'
    self._thread: threading.Thread | None = None

  def __enter__(self) -> 'Watchdog':
    if self._seconds > 0:
      self.beat(self._last_event)
      self._thread = threading.Thread(
        target=self._watch, name='moejax-watchdog', daemon=True
      )
      self._thread.start()
    return self

  def __exit__(self, *unused: object) -> None:
    self._done.set()
    if self._thread is not None:
      self._thread.join()

  def beat(self, event: str) -> None:
    """Notes that a step, say, has ended; a warning names the last event."""
    self._last, self._last_event = self._clock(), event

  def _watch(self) -> None:
    while not self._done.wait(min(POLL_S, self._seconds / 4)):
      late = self._clock() - self._last
      if late > self._seconds:
        self._say(
          f'watchdog: nothing has ended for {late:.0f} s, since '
          f'{self._last_event}; '
          f'train.watchdog_s={self._seconds:g}. All stacks of process '
          f'{os.getpid()}:\n{stacks()}'
        )
        if self._leave is not None:
          self._leave()
        self._last = self._clock()


def stacks() -> str:
  """The stacks of all Python threads, the innermost call first."""
  with tempfile.TemporaryFile() as f:  # faulthandler wants a descriptor
    faulthandler.dump_traceback(f, all_threads=True)
    f.seek(0)
    return f.read().decode(errors='replace')
