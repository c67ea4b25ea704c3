"""How fast a folder is written and read, and how much fits into it."""

import os
import pathlib
import shutil
import tempfile
import time
from collections.abc import Iterator

from moejax.doctor.finding import BROKEN, Finding

PART = 'disk'
MEGABYTES = 64


def findings(folder: str, megabytes: int = MEGABYTES) -> Iterator[Finding]:
  """Space, and the speed of a file that is written, read and removed.

  Args:
    folder: where runs are kept; if it is not there, the nearest folder above.
    megabytes: size of the file.
  """
  place = pathlib.Path(folder).absolute()
  while not place.is_dir() and place != place.parent:
    place = place.parent
  try:
    free = shutil.disk_usage(place).free
    yield Finding(PART, 'free', f'{free / 1e9:,.1f} GB', value=free, unit='B')
    write_s, read_s = _seconds(place, megabytes)
  except OSError as e:
    text = f'{place}: {e.strerror}'
    remedy = 'take another --workdir'
    yield Finding(PART, 'write', text, BROKEN, remedy)
    return
  for name, seconds in (('write', write_s), ('read', read_s)):
    speed = megabytes * 1e6 / seconds
    text = f'{speed / 1e6:,.0f} MB/s in {place}'
    yield Finding(PART, name, text, value=speed, unit='B/s')


def _seconds(place: pathlib.Path, megabytes: int) -> tuple[float, float]:
  """Seconds to write a file to the disk, and to read it again."""
  block = os.urandom(1_000_000)
  with tempfile.TemporaryFile(dir=place) as f:
    began = time.perf_counter()
    for _ in range(megabytes):
      f.write(block)
    f.flush()
    os.fsync(f.fileno())
    written = time.perf_counter()
    if hasattr(os, 'posix_fadvise'):  # from the disk, not from memory
      os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    f.seek(0)
    read_from = time.perf_counter()
    while f.read(1_000_000):
      pass
    return written - began, time.perf_counter() - read_from
