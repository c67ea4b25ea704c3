"""The safetensors format, read and written one tensor at a time.

A file is 8 bytes with the length of a header, the header in JSON, and bytes:

  {"__metadata__": {"format": "pt"},
   "w": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}}

Offsets count from the end of the header. Reading maps the file into memory, so
that only what is used of a tensor is read; writing holds one tensor at a time.
Nothing in such a file is ever run.
"""

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Iterable
from typing import Any

import ml_dtypes
import numpy as np

from moejax.core import errors

DTYPES = {
  'F64': np.dtype(np.float64),
  'F32': np.dtype(np.float32),
  'F16': np.dtype(np.float16),
  'BF16': np.dtype(ml_dtypes.bfloat16),
  'F8_E4M3': np.dtype(ml_dtypes.float8_e4m3fn),
  'F8_E5M2': np.dtype(ml_dtypes.float8_e5m2),
  'F8_E8M0': np.dtype(ml_dtypes.float8_e8m0fnu),
  'I64': np.dtype(np.int64),
  'I32': np.dtype(np.int32),
  'I16': np.dtype(np.int16),
  'I8': np.dtype(np.int8),
  'U8': np.dtype(np.uint8),
  'BOOL': np.dtype(np.bool_),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
METADATA = '__metadata__'
MAX_HEADER = 100_000_000  # of the format's own library


@dataclasses.dataclass(frozen=True)
class Entry:
  """Where a tensor is.

  Attributes:
    file: that has it.
    dtype: its name in the format.
    shape: its sizes.
    start: its first byte in the file.
  """

  file: pathlib.Path
  dtype: str
  shape: tuple[int, ...]
  start: int

  @property
  def num_bytes(self) -> int:
    return math.prod(self.shape) * DTYPES[self.dtype].itemsize

  def read(self) -> np.ndarray:
    """The tensor, mapped from the file."""
    dtype = DTYPES[self.dtype]
    if not self.num_bytes:
      return np.zeros(self.shape, dtype)
    raw = np.memmap(self.file, np.uint8, 'r', self.start, (self.num_bytes,))
    return raw.view(np.ndarray).view(dtype).reshape(self.shape)


def entries(file: pathlib.Path) -> dict[str, Entry]:
  """What a file holds, by name.

  Raises:
    InputError: it is no such file, or a part of one.
  """
  size = file.stat().st_size
  with open(file, 'rb') as f:
    length = int.from_bytes(f.read(8), 'little')
    if size < 8 or length > min(size - 8, MAX_HEADER):
      raise errors.InputError(
        f'{file} is no whole safetensors file: it has {size} bytes, and its '
        f'header would have {length}; fetch it again'
      )
    text = f.read(length)
  try:
    header = json.loads(text)
    header.pop(METADATA, None)
    found = {
      name: _entry(file, 8 + length, spec) for name, spec in header.items()
    }
  except (ValueError, KeyError, TypeError, AttributeError) as e:
    raise errors.InputError(
      f'{file} is no safetensors file: its header cannot be read ({e})'
    ) from None
  end = max((of_end for _, of_end in found.values()), default=0)
  if end > size:
    raise errors.InputError(
      f'{file} is cut short: it has {size} bytes of {end}; fetch it again'
    )
  return {name: entry for name, (entry, _) in found.items()}


def _entry(
  file: pathlib.Path, base: int, spec: dict[str, Any]
) -> tuple[Entry, int]:
  """An entry and the file's byte behind it."""
  begin, end = spec['data_offsets']
  shape = tuple(spec['shape'])
  if any(type(n) is not int or n < 0 for n in (begin, end, *shape)):
    raise ValueError(f'sizes {spec}')
  dtype = DTYPES.get(spec['dtype'])
  if dtype is not None and end - begin != math.prod(shape) * dtype.itemsize:
    raise ValueError(f'{spec["data_offsets"]} is not the size of {shape}')
  return Entry(file, spec['dtype'], shape, base + begin), base + end


def write(
  file: pathlib.Path,
  specs: dict[str, tuple[np.dtype, tuple[int, ...]]],
  tensors: Iterable[tuple[str, np.ndarray]],
) -> None:
  """Writes a file; it is whole or absent.

  Args:
    file: its path.
    specs: type and shape of each tensor by name.
    tensors: all of them, in that order.
  """
  header, at = {METADATA: {'format': 'pt'}}, 0
  for name, (dtype, shape) in specs.items():
    end = at + math.prod(shape) * dtype.itemsize
    header[name] = {
      'dtype': NAMES[dtype],
      'shape': list(shape),
      'data_offsets': [at, end],
    }
    at = end
  text = json.dumps(header).encode()
  text += b' ' * (-len(text) % 8)
  part = file.with_name(file.name + '.part')
  try:
    with open(part, 'wb') as f:
      f.write(len(text).to_bytes(8, 'little') + text)
      for (name, x), wanted in zip(tensors, specs, strict=True):
        assert (name, x.dtype, x.shape) == (wanted, *specs[wanted])
        f.write(np.ascontiguousarray(x).reshape(-1).view(np.uint8))
      f.flush()
      os.fsync(f.fileno())
    os.replace(part, file)
  finally:
    part.unlink(missing_ok=True)
