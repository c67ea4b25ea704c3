"""Files of tensors in the safetensors format, one tensor at a time.

A file is 8 bytes with the length of a header, the header in JSON, and bytes:

  {"__metadata__": {"format": "pt"},
   "w": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}}

Offsets count from the end of the header. Nothing in such a file is ever run.

The `safetensors` library reads and checks the header. Two things are done here,
because its NumPy interface cannot do them (version 0.8):

  reading   It has no FP8 types, and copies a tensor whole. Here a tensor is
            mapped into memory as any type of `ml_dtypes`; it may be transposed
            and sliced, and only the bytes that are used are read.
  writing   It writes arrays that are all in memory, a file of 5 GB at once.
            Here one tensor is held at a time, and a full disk is an `OSError`.
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
import safetensors

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
NAMES = {dtype: name for name, dtype in DTYPES.items()}  # inverse of DTYPES
METADATA = '__metadata__'


@dataclasses.dataclass(frozen=True)
class StoredTensor:
  """A tensor in a file.

  Attributes:
    file: path of the file.
    dtype: name of the type in the format; not always one of DTYPES.
    shape: sizes of the dimensions.
    start: index of the first byte in the file.
  """

  file: pathlib.Path
  dtype: str
  shape: tuple[int, ...]
  start: int

  @property
  def num_bytes(self) -> int:
    """Size in the file."""
    return math.prod(self.shape) * DTYPES[self.dtype].itemsize

  def read(self) -> np.ndarray:
    """Maps the tensor from the file; its type must be one of DTYPES."""
    dtype = DTYPES[self.dtype]
    if not self.num_bytes:
      return np.zeros(self.shape, dtype)
    raw = np.memmap(self.file, np.uint8, 'r', self.start, (self.num_bytes,))
    return raw.view(np.ndarray).view(dtype).reshape(self.shape)


@dataclasses.dataclass(frozen=True)
class StoredRows:
  """Some rows of a tensor in a file.

  Attributes:
    whole: the tensor.
    start: the first row.
    stop: the row after the last.
  """

  whole: StoredTensor
  start: int
  stop: int

  @property
  def file(self) -> pathlib.Path:
    """Path of the file."""
    return self.whole.file

  @property
  def dtype(self) -> str:
    """Name of the type in the format."""
    return self.whole.dtype

  @property
  def shape(self) -> tuple[int, ...]:
    """Sizes of the dimensions."""
    return self.stop - self.start, *self.whole.shape[1:]

  @property
  def num_bytes(self) -> int:
    """Size in the file."""
    return math.prod(self.shape) * DTYPES[self.dtype].itemsize

  def read(self) -> np.ndarray:
    """Maps the rows from the file."""
    return self.whole.read()[self.start : self.stop]


def read_header(file: pathlib.Path) -> dict[str, StoredTensor]:
  """Finds the tensors of a file by name.

  Raises:
    InputError: the file is damaged, cut short, or of another format.
  """
  try:
    with safetensors.safe_open(file, framework='np'):
      pass  # checks the header, and the length of the file against it
  except safetensors.SafetensorError as e:
    raise errors.InputError(
      f'{file} is no whole safetensors file ({e}); fetch it again'
    ) from None
  with open(file, 'rb') as f:
    length = int.from_bytes(f.read(8), 'little')
    header = json.loads(f.read(length))
  header.pop(METADATA, None)
  return {
    name: StoredTensor(
      file,
      spec['dtype'],
      tuple(spec['shape']),
      8 + length + spec['data_offsets'][0],
    )
    for name, spec in header.items()
  }


def write(
  file: pathlib.Path,
  specs: dict[str, tuple[np.dtype, tuple[int, ...]]],
  tensors: Iterable[tuple[str, np.ndarray]],
) -> None:
  """Writes a file that is whole or absent.

  Args:
    file: path to write.
    specs: type and shape of each tensor by name.
    tensors: name and value of each tensor, in the order of `specs`.
  """
  header: dict[str, dict[str, Any]] = {METADATA: {'format': 'pt'}}
  begin = 0
  for name, (dtype, shape) in specs.items():
    end = begin + math.prod(shape) * dtype.itemsize
    header[name] = {
      'dtype': NAMES[dtype],
      'shape': list(shape),
      'data_offsets': [begin, end],
    }
    begin = end
  text = json.dumps(header).encode()
  text += b' ' * (-len(text) % 8)
  partial = file.with_name(file.name + '.part')
  try:
    with open(partial, 'wb') as f:
      f.write(len(text).to_bytes(8, 'little') + text)
      for (name, x), expected in zip(tensors, specs, strict=True):
        assert (name, x.dtype, x.shape) == (expected, *specs[expected])
        f.write(np.ascontiguousarray(x).reshape(-1).view(np.uint8).data)
      f.flush()
      os.fsync(f.fileno())
    os.replace(partial, file)
  finally:
    partial.unlink(missing_ok=True)
