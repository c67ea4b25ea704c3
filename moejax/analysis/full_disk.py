"""A file that can be ended properly although the disk has become full.

The index of a Parquet file is at its end. If the disk fills up before, nothing
that was written can be read. So a second file, the reserve, holds room for what
is still to be written. When the disk is full the reserve is removed, the write
goes on in its place, and `is_full` says that the file must be ended now.
"""

import errno
import os
import pathlib

_FULL = (errno.ENOSPC, errno.EDQUOT)
_BLOCK = bytes(2**16)


class ReservedFile:
  """A file being written, with a reserve; the file object that pyarrow writes.

  Attributes:
    path: the file.
    is_full: whether the disk has become full, and the reserve is used up.
    closed: whether the file is closed.
  """

  def __init__(self, path: pathlib.Path):
    """Makes the file; a file that is there is replaced."""
    self.path = path
    self.is_full = False
    self.closed = False
    self._file = open(path, 'wb', buffering=0)  # noqa: SIM115 (closed by close)
    self._reserve = path.with_name(f'{path.name}.reserve')
    self._reserved = 0
    self._size = 0

  def reserve(self, num_bytes: int) -> None:
    """Makes the reserve at least this large, unless the disk is full."""
    if num_bytes <= self._reserved or self.is_full:
      return
    num_bytes *= 2  # so that it is enlarged rarely
    missing = num_bytes - self._reserved
    try:
      with open(self._reserve, 'ab', buffering=0) as file:
        while missing > 0:
          missing -= file.write(_BLOCK)
        os.fsync(file.fileno())  # some file systems assign room only now
    except OSError as error:
      self._free(error)
    self._reserved = num_bytes

  def write(self, data: bytes) -> int:
    """Writes bytes; on a full disk, in the room of the reserve.

    Raises:
      OSError: the disk fails, or is full and the reserve is used up.
    """
    if self.closed:
      return len(data)  # of a writer that is dropped after an error
    rest = memoryview(data)
    while rest:
      try:
        rest = rest[self._file.write(rest) :]
      except OSError as error:
        self._free(error)
    self._size += len(data)
    return len(data)

  def tell(self) -> int:
    """Bytes written so far."""
    return self._size

  def flush(self) -> None:
    """Does nothing: nothing is held back."""

  def close(self) -> None:
    """Flushes the file to the disk, and removes the reserve."""
    if self.closed:
      return
    self.closed = True
    try:
      os.fsync(self._file.fileno())
    finally:
      self._file.close()
      self._reserve.unlink(missing_ok=True)

  def _free(self, error: OSError) -> None:
    """Removes the reserve; raises the error if that cannot help."""
    if error.errno not in _FULL or self.is_full:
      raise error
    self._reserve.unlink(missing_ok=True)
    self.is_full = True
