"""Keeps off the screen what Orbax says beside the exception that it raises.

A save that fails because the disk is full comes back as one exception. On the
way, Orbax logs the same three times with stack traces, asyncio logs its other
writes as "never retrieved", and TensorStore reports those that end after Orbax
has closed their event loop. None of it tells anything that the exception does
not.
"""

import logging
import os
import sys
import traceback
from typing import Any

_ORBAX = f'{os.sep}orbax{os.sep}'


class Quiet(logging.Filter):
  """In force from `start` to `stop`; lets everything else through."""

  def start(self) -> None:
    """Puts itself before two loggers and the hook for lost exceptions."""
    logging.getLogger('absl').addFilter(self)
    logging.getLogger('asyncio').addFilter(self)
    self._on = True
    self._next_hook = sys.unraisablehook
    self._hook = self._unraisable
    sys.unraisablehook = self._hook

  def stop(self) -> None:
    """Takes itself away again.

    Not to be called after an error: what was lost on the way is reported
    whenever its garbage is collected, be it at the end of the process.
    """
    self._on = False
    logging.getLogger('absl').removeFilter(self)
    logging.getLogger('asyncio').removeFilter(self)
    if sys.unraisablehook is self._hook:  # else another one leads here still
      sys.unraisablehook = self._next_hook

  def filter(self, record: logging.LogRecord) -> bool:
    """Whether a log record is to be seen."""
    if record.name == 'absl':
      return _ORBAX not in record.pathname
    text = record.getMessage()
    stack = traceback.extract_tb(record.exc_info[2]) if record.exc_info else []
    places = [text, *(frame.filename for frame in stack)]
    return 'never retrieved' not in text or not any(_ORBAX in p for p in places)

  def _unraisable(self, lost: Any) -> None:
    if not self._on or str(lost.exc_value) != 'Event loop is closed':
      self._next_hook(lost)
