"""Quantised releases, as tensors that are like others.

MXFP4 (OCP Microscaling Formats 1.0, section 5), as gpt-oss is released: 32
numbers of 4 bits, two to a byte and the lower half first, share a power of two.

  X_blocks  U8 [..., N, K / 32, 16]      X  [..., K, N]
  X_scales  U8 [..., N, K / 32]

Blocks of 8 bits, as DeepSeek-V3 is released (arXiv 2412.19437, section 3.3):
each 128 x 128 numbers share a factor.

  X            F8_E4M3 [N, K]            X  [N, K]
  X_scale_inv  F32 [N / 128, K / 128], rounded up

Example, a byte 0x2f with the scale 128: 15 is -6 and 2 is 1, times 2: -12, 2.

What is read is exactly what was released; nothing is written like that.
"""

import dataclasses
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from moejax.convert.safetensors import Entry
from moejax.core import errors

MXFP4, FP8 = 'MXFP4', 'FP8 in blocks'
KINDS = (MXFP4, FP8)
BLOCKS, SCALES, SCALE_INV = '_blocks', '_scales', '_scale_inv'
LENGTH = 32  # of a block
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
# The 16 numbers of 4 bits.
NUMBERS = np.arange(16, dtype=np.uint8).view(ml_dtypes.float4_e2m1fn)


@dataclasses.dataclass(frozen=True)
class _Pair:
  """Numbers of few bits, and what blocks of them are multiplied by."""

  numbers: Entry
  scales: Entry

  @property
  def file(self) -> pathlib.Path:
    return self.numbers.file

  @property
  def num_bytes(self) -> int:
    return self.numbers.num_bytes + self.scales.num_bytes


@dataclasses.dataclass(frozen=True)
class Blocks4(_Pair):
  """A tensor in MXFP4, transposed as gpt-oss computes with it."""

  dtype = MXFP4

  @property
  def shape(self) -> tuple[int, ...]:
    *front, rows, groups, _ = self.numbers.shape
    return *front, groups * LENGTH, rows

  def read(self) -> np.ndarray:
    """In bfloat16, which has every product of the two below 2^128."""
    numbers = NUMBERS.astype(BFLOAT16)
    pairs = self.numbers.read()
    both = np.empty((*pairs.shape, 2), BFLOAT16)
    both[..., 0] = numbers[pairs & 15]
    both[..., 1] = numbers[pairs >> 4]
    scales = self.scales.read().view(ml_dtypes.float8_e8m0fnu)
    both *= scales.astype(BFLOAT16)[..., None, None]
    return both.reshape(*pairs.shape[:-2], -1).swapaxes(-1, -2)


@dataclasses.dataclass(frozen=True)
class Blocks8(_Pair):
  """A matrix of 8 bits with a factor for each block."""

  size: tuple[int, int]

  dtype = FP8

  @property
  def shape(self) -> tuple[int, ...]:
    return self.numbers.shape

  def read(self) -> np.ndarray:
    """In float32."""
    found = self.numbers.read().astype(np.float32)
    scales, (rows, columns) = self.scales.read(), self.size
    for i, row in enumerate(scales):
      part = found[i * rows : (i + 1) * rows]
      part *= np.repeat(row, columns)[: part.shape[1]]
    return found


def plain(
  tensors: Mapping[str, Entry], config: Mapping[str, Any]
) -> dict[str, Entry | Blocks4 | Blocks8]:
  """The tensors of a folder, each pair of numbers and scales as one.

  Args:
    tensors: what there is, by name.
    config: config.json.

  Raises:
    InputError: numbers and scales of a pair do not fit, or are of other types.
  """
  found, size = dict(tensors), _block_size(config)
  for name, entry in tensors.items():
    if name.endswith(BLOCKS):
      base, want = name.removesuffix(BLOCKS), entry.shape[:-1]
      scales = tensors.get(base + SCALES)
      if scales is None:
        continue
      fits = entry.shape[-1:] == (LENGTH // 2,) and len(want) > 1
      _check(base, entry, scales, fits and scales.shape == want)
      _check_types(base, (entry, scales), ('U8',))
      found[base] = Blocks4(found.pop(name), found.pop(base + SCALES))
    elif entry.dtype == 'F8_E4M3' and name + SCALE_INV in tensors:
      scales, fits = tensors[name + SCALE_INV], len(entry.shape) == len(size)
      if fits:
        want = tuple(map(math.ceil, np.divide(entry.shape, size)))
      _check(name, entry, scales, fits and scales.shape == want)
      _check_types(name, (scales,), ('F32', 'BF16'))
      found[name] = Blocks8(entry, found.pop(name + SCALE_INV), size)
  return found


def _block_size(config: Mapping[str, Any]) -> tuple[int, int]:
  """Rows and columns of a block of 8 bits."""
  settings = config.get('quantization_config') or {}
  found = 128, 128
  if isinstance(settings, dict):
    found = settings.get('weight_block_size') or found
  if (
    not isinstance(found, list | tuple)
    or len(found) != 2
    or any(type(n) is not int or n < 1 for n in found)
  ):
    raise errors.InputError(
      f'quantization_config.weight_block_size={found!r} of config.json must be '
      'two numbers of 1 or more: [128, 128], say'
    )
  return tuple(found)


def _check_types(
  name: str, entries: tuple[Entry, ...], known: tuple[str, ...]
) -> None:
  types = {entry.dtype for entry in entries} - {*known}
  if types:
    raise errors.InputError(
      f'{name} is quantised with numbers or scales of {min(types)}, which must '
      f'be {" or ".join(known)} for moejax; convert it to bfloat16 first'
    )


def _check(name: str, entry: Entry, scales: Entry, fits: bool) -> None:
  if not fits:
    raise errors.InputError(
      f'{name} is quantised, but its numbers {list(entry.shape)} do not fit '
      f'its scales {list(scales.shape)}; fetch both again'
    )
