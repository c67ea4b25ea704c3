"""SIGINT and SIGTERM as a flag that the loop reads between two steps."""

import signal
import threading
from types import FrameType
from typing import Any


class StopSignal:
  """Turns a request to stop into `requested`, so that a step is not torn.

    with StopSignal() as stop:
      for step in range(...):
        ...
        if stop.requested:
          checkpointer.save(...)
          break

  | signal | first | again |
  |---|---|---|
  | SIGINT (Ctrl-C) | sets `requested` | raises KeyboardInterrupt, wherever |
  | SIGTERM | sets `requested` | ignored: the save is under way |

  On leaving, the handlers from before are back. Outside the main thread Python
  gives signals to nobody, so there it does nothing.
  """

  def __init__(self):
    self._first: signal.Signals | None = None
    self._interrupted = False
    self._before: dict[signal.Signals, Any] = {}

  @property
  def requested(self) -> str | None:
    """The name of the first signal that came, or None."""
    return self._first.name if self._first else None

  def __enter__(self) -> 'StopSignal':
    if threading.current_thread() is threading.main_thread():
      for which in (signal.SIGINT, signal.SIGTERM):
        self._before[which] = signal.signal(which, self._handle)
    return self

  def __exit__(self, *unused: object) -> None:
    for which, handler in self._before.items():
      # None: it was set from outside Python, and cannot be set back.
      signal.signal(which, signal.SIG_DFL if handler is None else handler)
    self._before.clear()

  def _handle(self, number: int, _frame: FrameType | None) -> None:
    which = signal.Signals(number)
    if self._first is None:
      self._first = which
    if which == signal.SIGINT:
      if self._interrupted:
        raise KeyboardInterrupt
      self._interrupted = True
