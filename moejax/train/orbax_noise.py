"""A log filter for messages of Orbax that repeat the exception that it raises.

A save that fails because the disk is full raises one exception. Besides, Orbax
logs the same error three times with stack traces, asyncio logs the other writes
of the save as "never retrieved", and TensorStore reports writes that end after
Orbax has closed their event loop. These messages say nothing that the exception
does not.
"""

import logging
import os
import sys
import traceback
from typing import Any

_ORBAX = f'{os.sep}orbax{os.sep}'
# In errors of writes. Most hold a spec and source files of TensorStore. That
# of a driver alone holds neither, but its database's format or Orbax's folder.
_WRITES = (_ORBAX, 'tensorstore', 'OCDBT', 'orbax-checkpoint')


class Quiet(logging.Filter):
  """Suppresses these messages from `start` to `stop`, and no others."""

  def start(self) -> None:
    """Adds the filter to two loggers and to `sys.unraisablehook`."""
    logging.getLogger('absl').addFilter(self)
    logging.getLogger('asyncio').addFilter(self)
    self._on = True
    self._next_hook = sys.unraisablehook
    self._hook = self._unraisable
    sys.unraisablehook = self._hook

  def stop(self) -> None:
    """Removes the filter.

    Not to be called after an error: an exception of a lost write is reported
    when it is garbage-collected, perhaps only at the end of the process.
    """
    self._on = False
    logging.getLogger('absl').removeFilter(self)
    logging.getLogger('asyncio').removeFilter(self)
    # If another filter has set its hook since, that one still calls this one.
    if sys.unraisablehook is self._hook:
      sys.unraisablehook = self._next_hook

  def filter(self, record: logging.LogRecord) -> bool:
    """Whether to let a log record through."""
    if record.name == 'absl':
      return _ORBAX not in record.pathname
    text = record.getMessage()
    stack = traceback.extract_tb(record.exc_info[2]) if record.exc_info else []
    places = [text, *(frame.filename for frame in stack)]
    is_write = any(mark in p for mark in _WRITES for p in places)
    return 'never retrieved' not in text or not is_write

  def _unraisable(self, lost: Any) -> None:
    if not self._on or str(lost.exc_value) != 'Event loop is closed':
      self._next_hook(lost)
