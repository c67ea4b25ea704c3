"""SIGINT, SIGTERM and SIGHUP as a flag that the loop reads between two steps.

If jax.distributed is initialised, JAX handles SIGTERM: it passes the notice of
any process on to all of them and names the step after which all stop.
"""

import signal
import threading
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

from moejax.core import terminal

PREEMPTED = 'SIGTERM (a preemption notice)'


class StopSignal:
  """Turns a request to stop into `requested`, so that a step is not torn.

    with StopSignal() as stop:
      for step in range(...):
        ...
        if stop.after(step):
          checkpointer.save(...)
          break

  | signal | first | again |
  |---|---|---|
  | SIGINT (Ctrl-C) | sets `requested` | raises KeyboardInterrupt, wherever |
  | SIGTERM | sets `requested` | ignored: the save is under way |
  | SIGHUP (the terminal is closed, the connection dropped) | sets `requested`,
    and what is printed goes nowhere | ignored |

  SIGHUP stays ignored if it was ignored at the start, as under `nohup`. On exit
  the previous handlers are restored. Python delivers signals to the main thread
  only, so in another thread this does nothing.
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
    """The name of what asks to stop after this step, or None.

    To be called at every step.

    With several processes a preemption notice to one of them stops all, after
    the same step.
    """
    if not self._preempted and _preempted(step):
      self._preempted = True
      self._take(signal.SIGTERM)  # the next is ignored: the save is under way
    return PREEMPTED if self._preempted else self.requested

  def __enter__(self) -> 'StopSignal':
    self._take(signal.SIGINT)
    if terminal.HANGUP is not None and terminal.hangs_up():
      self._take(terminal.HANGUP)
    if not jax.distributed.is_initialized():
      self._take(signal.SIGTERM)
    return self

  def _take(self, which: signal.Signals) -> None:
    in_main = threading.current_thread() is threading.main_thread()
    if in_main and which not in self._before:
      self._before[which] = signal.signal(which, self._handle)

  def __exit__(self, *unused: object) -> None:
    for which, handler in self._before.items():
      # None: it was set from outside Python, and cannot be set back.
      signal.signal(which, signal.SIG_DFL if handler is None else handler)
    self._before.clear()

  def _handle(self, number: int, _frame: FrameType | None) -> None:
    which = signal.Signals(number)
    if which == terminal.HANGUP:
      terminal.let_go()
    if self._first is None:
      self._first = which
    if which == signal.SIGINT:
      if self._interrupted:
        raise KeyboardInterrupt
      self._interrupted = True


def _preempted(step: int) -> bool:
  """Whether JAX's preemption notice, to any process, is for after this step."""
  try:
    return multihost_utils.reached_preemption_sync_point(step)
  except RuntimeError:  # JAX_ENABLE_PREEMPTION_SERVICE=false
    return False
