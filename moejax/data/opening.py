"""Opens files of text: on a disk or in an object store, compressed or not.

Objects of a store, such as gs://bucket/a.jsonl.gz, are read through etils, by
TensorFlow or else by gcsfs.
"""

import contextlib
import gzip
import io
import pathlib
from collections.abc import Iterator
from typing import IO, Any

from moejax.core import errors
from moejax.data import seqio_bridge


def is_remote(path: Any) -> bool:
  """Whether a path is in an object store, and not on a disk."""
  return not isinstance(path, pathlib.Path)


def size(path: Any) -> int:
  """Bytes of a file."""
  if not is_remote(path):
    return path.stat().st_size
  try:
    return path.stat().length
  except Exception as e:
    raise unreachable(str(path), e) from e


@contextlib.contextmanager
def plain(path: Any) -> Iterator[IO[bytes]]:
  """Opens a file as it is, for reading bytes."""
  if not is_remote(path):
    with path.open('rb') as file:
      yield file
    return
  try:
    opened = path.open('rb')
    file = opened.__enter__()
  except Exception as e:
    raise unreachable(str(path), e) from e
  try:
    yield io.BufferedReader(_Adapted(file), 2**20)
  finally:
    opened.__exit__(None, None, None)


@contextlib.contextmanager
def gzipped(path: Any) -> Iterator[IO[bytes]]:
  """Opens what gzip compressed."""
  with plain(path) as file, gzip.GzipFile(fileobj=file) as inner:
    yield inner  # type: ignore[misc] # it has the methods of IO


@contextlib.contextmanager
def zstandard(path: Any) -> Iterator[IO[bytes]]:
  """Opens what Zstandard compressed; needs pyarrow."""
  instead = 'decompress it with `unzstd`'
  with seqio_bridge.needed(errors.shown(path), 'pyarrow', instead):
    import pyarrow

  with plain(path) as file:
    inner = pyarrow.CompressedInputStream(file, 'zstd')
    yield io.BufferedReader(inner, 2**20)


# What reads object stores whose paths begin so.
_READERS = {'s3': 's3fs', 'az': 'adlfs'}


def unreachable(name: str, e: Exception) -> errors.InputError:
  """The error that an object store does not give an object or a listing."""
  reason = (str(e).strip() or type(e).__name__).splitlines()[0]
  reader = _READERS.get(name.partition('://')[0], 'gcsfs or tensorflow')
  return errors.InputError(
    f'{name} cannot be read: {reason}; the machine needs access to the bucket, '
    f'and {reader} to read it'
  )


class _Adapted(io.RawIOBase):
  """A file of TensorFlow with the methods that Python's readers call."""

  def __init__(self, file: Any):
    super().__init__()
    self._file = file

  def readable(self) -> bool:
    return True

  def seekable(self) -> bool:
    return True

  def readinto(self, buffer: Any) -> int:
    data = self._file.read(len(buffer))
    buffer[: len(data)] = data
    return len(data)

  def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
    self._file.seek(offset, whence)
    return self._file.tell()

  def tell(self) -> int:
    return self._file.tell()
