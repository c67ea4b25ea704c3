"""SIGINT, SIGTERM and SIGHUP as a flag that the loop reads between two steps.

If jax.distributed is initialised, JAX handles SIGTERM, which schedulers send as
a preemption notice. It passes the notice of any process on to all processes,
and chooses the step after which all stop.
"""

import signal
import threading
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

from moejax.core import interrupts, terminal

PREEMPTED = 'SIGTERM (a preemption notice)'


class StopSignal:
  """Notes stop signals in `requested`, so that no step is interrupted.

    with StopSignal() as stop:
      for step in range(...):
        ...
        if stop.after(step):
          checkpointer.save(...)
          break

  | signal | first time | second time |
  |---|---|---|
  | SIGINT (Ctrl-C) | sets `requested` | raises KeyboardInterrupt at once |
  | SIGTERM | sets `requested` | ignored: the save is under way |
  | SIGHUP (the terminal is closed, the connection dropped) | sets `requested`;
    output is redirected to /dev/null | ignored |

  SIGHUP stays ignored if it was ignored at the start, as under `nohup`. On exit
  the previous handlers are restored. Python delivers signals to the main thread
  only, so in another thread this does nothing. The second Ctrl-C to a command
  ends the process instead of raising, see `core/interrupts.py`.
  """

  def __init__(self):
    self._first: signal.Signals | None = None
    self._interrupted = False
    self._preempted = False
    self._before: dict[signal.Signals, Any] = {}

  @property
  def requested(self) -> str | None:
    """The name of the first signal that came, or None."""
    return self._first.name if self._first else None

  def after(self, step: int) -> str | None:
    """The name of the signal that asks to stop after this step, or None.

    To be called after every step. With several processes a preemption notice to
    one of them stops all after the same step.
    """
    if not self._preempted and _preempted(step):
      self._preempted = True
      self._take(signal.SIGTERM)  # a second one must not interrupt the save
    return PREEMPTED if self._preempted else self.requested

  def __enter__(self) -> 'StopSignal':
    self._take(signal.SIGINT)
    if terminal.HANGUP is not None and terminal.hangs_up():
      self._take(terminal.HANGUP)
    if not jax.distributed.is_initialized():
      self._take(signal.SIGTERM)
    return self

  def _take(self, number: signal.Signals) -> None:
    """Handles a signal, if this is the main thread."""
    in_main = threading.current_thread() is threading.main_thread()
    if in_main and number not in self._before:
      self._before[number] = signal.signal(number, self._handle)

  def __exit__(self, *unused: object) -> None:
    for number, handler in self._before.items():
      # None: the handler was not set by Python, and cannot be restored.
      signal.signal(number, signal.SIG_DFL if handler is None else handler)
    self._before.clear()

  def _handle(self, number: int, _frame: FrameType | None) -> None:
    if number == terminal.HANGUP:
      terminal.let_go()
    if self._first is None:
      self._first = signal.Signals(number)
    if number == signal.SIGINT:
      if self._interrupted and not interrupts.ends_on_second():
        raise KeyboardInterrupt
      self._interrupted = True


def _preempted(step: int) -> bool:
  """Whether JAX has a preemption notice to any process for after this step."""
  try:
    return multihost_utils.reached_preemption_sync_point(step)
  except RuntimeError:  # JAX_ENABLE_PREEMPTION_SERVICE=false
    return False
