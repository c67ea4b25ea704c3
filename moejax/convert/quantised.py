"""Dequantises MXFP4 and FP8 tensors when they are read.

MXFP4 (OCP Microscaling Formats 1.0, section 5), as gpt-oss is released: a block
of 32 numbers of 4 bits shares a scale, which is a power of two. A byte holds
two numbers, the first in its lower half.

  X_blocks  U8 [..., N, K / 32, 16]      X  [..., K, N]
  X_scales  U8 [..., N, K / 32]

FP8: numbers of 8 bits are multiplied by factors. A block of 128 x 128 numbers
shares a factor in DeepSeek-V3 (arXiv 2412.19437, section 3.3); a row or the
whole tensor does in the files of modelopt, llm-compressor and AutoFP8.

  X            F8_E4M3 [..., N, K]       X  [..., N, K]
  X_scale_inv  [..., N / 128, K / 128], rounded up; [..., N, 1]; or one number;
  or X_scale   F32, F16, BF16, or F8_E8M0, which are powers of two

Example, MXFP4: the byte 0x2f with the scale 128, which means 2^(128 - 127) = 2.
The lower half, 15, is -6 and the upper half, 2, is 1: the numbers are -12, 2.

Reading gives exactly the released numbers; no quantised tensor is written.
Factors of activations, which such a release may have, are not used, because
activations are not quantised here.
"""

import dataclasses
import math
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from moejax.convert.tensor_files import StoredRows, StoredTensor
from moejax.core import errors

MXFP4, FP8, FP8_BLOCKS = 'MXFP4', 'FP8', 'FP8 in blocks'
KINDS = (MXFP4, FP8, FP8_BLOCKS)
BLOCKS, SCALES = '_blocks', '_scales'
FACTORS = ('_scale_inv', '_scale')
FACTOR_TYPES = ('F32', 'BF16', 'F16', 'F8_E8M0')
# Scales of activations and of cached keys and values, by any tool.
ACTIVATIONS = re.compile(
  r'.*[._](input|output|activation|q|k|v|kv|prob)_scale|.*\.kv_cache_scaling\w*'
)
# Tensors that other methods of quantisation store beside a weight or in its
# place.
OTHERS = re.compile(
  r'.*(\.(qweight|qzeros|scales|g_idx|weight_(packed|shape|zero_point|g_idx)|'
  r'weight_global_scale|input_global_scale|weight_scale_2|pre_quant_scale|'
  r'(nested_)?(absmax|quant_map)|quant_state\..*|SCB|weight_format)|'
  r'_blocks|_scales|_scale|_scale_inv)'
)
# Keys of `quantization_config` that error messages quote.
METHODS = 'quant_method', 'quant_algo', 'format', 'bits'
REMEDY = (
  'take the release that is not quantised, or dequantise it with what made it '
  '(bitsandbytes: `dequantize()` of the model in transformers) and save it in '
  'bfloat16'
)
LENGTH = 32  # numbers of a block of MXFP4
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
# The number that each of the 16 codes of 4 bits stands for.
NUMBERS = np.arange(16, dtype=np.uint8).view(ml_dtypes.float4_e2m1fn)


@dataclasses.dataclass(frozen=True)
class _Pair:
  """Two tensors of a file: quantised numbers and their scales.

  Attributes:
    numbers: numbers of 4 or 8 bits.
    scales: factors, each of which multiplies a block of numbers.
  """

  numbers: StoredTensor
  scales: StoredTensor

  @property
  def file(self) -> pathlib.Path:
    return self.numbers.file

  @property
  def num_bytes(self) -> int:
    return self.numbers.num_bytes + self.scales.num_bytes


@dataclasses.dataclass(frozen=True)
class Blocks4(_Pair):
  """A tensor in MXFP4: [..., N, K] in the file, [..., K, N] as it is read.

  The last two axes are swapped because gpt-oss multiplies by the transpose.
  """

  dtype = MXFP4

  @property
  def shape(self) -> tuple[int, ...]:
    *front, rows, groups, _ = self.numbers.shape
    return *front, groups * LENGTH, rows

  def read(self) -> np.ndarray:
    """The tensor in bfloat16.

    bfloat16 holds every product of a number and a scale below 2^128 exactly.
    """
    numbers = NUMBERS.astype(BFLOAT16)
    pairs = self.numbers.read()
    both = np.empty((*pairs.shape, 2), BFLOAT16)
    both[..., 0] = numbers[pairs & 15]
    both[..., 1] = numbers[pairs >> 4]
    scales = self.scales.read().view(ml_dtypes.float8_e8m0fnu)
    both *= scales.astype(BFLOAT16)[..., None, None]
    return both.reshape(*pairs.shape[:-2], -1).swapaxes(-1, -2)


@dataclasses.dataclass(frozen=True)
class Scaled8(_Pair):
  """Matrices of FP8 numbers with factors.

  Attributes:
    size: rows and columns of a block that shares a factor.
  """

  size: tuple[int, int]

  @property
  def dtype(self) -> str:
    return FP8 if self.size[1] >= self.shape[-1] else FP8_BLOCKS

  @property
  def shape(self) -> tuple[int, ...]:
    return self.numbers.shape

  def read(self) -> np.ndarray:
    """The tensor in float32."""
    x = self.numbers.read().astype(np.float32)
    (rows, columns), (*front, height, width) = self.size, self.shape
    blocks = math.ceil(height / rows), math.ceil(width / columns)
    factors = self.scales.read().astype(np.float32)
    if factors.size == 1:
      return x * factors.reshape(())
    factors = factors.reshape(*front, *blocks)
    if blocks[1] == 1:
      by_row = np.repeat(factors[..., 0], rows, axis=-1)
      return x * by_row[..., :height, None]
    for at in np.ndindex(*front):
      for i, row in enumerate(factors[at]):
        band = x[at][i * rows : (i + 1) * rows]  # a view of x
        band *= np.repeat(row, columns)[:width]
    return x


# A tensor of a checkpoint: stored plainly, or as quantised numbers with scales.
ReadableTensor = StoredTensor | StoredRows | Blocks4 | Scaled8


def plain(
  tensors: Mapping[str, StoredTensor], config: Mapping[str, Any]
) -> dict[str, ReadableTensor]:
  """The tensors of a folder, with numbers and their scales joined to one.

  Example:
    {'a_blocks': ..., 'a_scales': ..., 'b': ...}
    {'a': Blocks4(...), 'b': ...}

  Args:
    tensors: all tensors of the folder, by name.
    config: content of config.json.

  Raises:
    InputError: the shapes of numbers and scales do not fit together, or one of
      them has another type than the format.
  """
  joined: dict[str, ReadableTensor] = dict(tensors)
  size = _block_size(config)
  for name, entry in tensors.items():
    if name.endswith(BLOCKS):
      base, blocks = name.removesuffix(BLOCKS), entry.shape[:-1]
      scales = tensors.get(base + SCALES)
      if scales is None:
        continue
      fits = entry.shape[-1:] == (LENGTH // 2,) and len(blocks) > 1
      _check_fits(base, entry, scales, fits and scales.shape == blocks)
      _check_types(base, (entry, scales), ('U8',), config)
      del joined[name], joined[base + SCALES]
      joined[base] = Blocks4(entry, scales)
    elif entry.dtype == 'F8_E4M3':
      factors = [name + end for end in FACTORS if name + end in tensors]
      if factors:
        scales = tensors[factors[0]]
        del joined[factors[0]]
        _check_types(name, (scales,), FACTOR_TYPES, config)
        shared = _sharing(entry.shape, scales.shape, size)
        if shared is None:
          raise errors.InputError(
            f'{name} is quantised{by(config)}, but its factors '
            f'{list(scales.shape)} are neither one, nor one for each row, nor '
            f'one for each block of {size[0]} x {size[1]} of its numbers '
            f'{list(entry.shape)}; {REMEDY}'
          )
        joined[name] = Scaled8(entry, scales, shared)
  return joined


def by(config: Mapping[str, Any]) -> str:
  """The quantisation that a config.json names, for messages; '' without one.

  Example: " (quant_method='gptq', bits=4)"
  """
  settings = config.get('quantization_config')
  # Older files of compressed-tensors have the settings under this key.
  settings = settings or config.get('compression_config')
  if not isinstance(settings, dict):
    return ''
  named = [f'{k}={settings[k]!r}' for k in METHODS if settings.get(k)]
  return f' ({", ".join(named) or "by no named quant_method"})'


def _sharing(
  shape: tuple[int, ...], factors: tuple[int, ...], block: tuple[int, int]
) -> tuple[int, int] | None:
  """Rows and columns that share a factor; None if the shapes do not fit.

  Args:
    shape: shape of the numbers.
    factors: shape of the factors.
    block: rows and columns of a block, if factors are by block.
  """
  if len(shape) < 2:
    return None
  *front, rows, columns = shape
  if math.prod(factors) == 1:
    return rows, columns
  if front and factors in ((*front,), (*front, 1), (*front, 1, 1)):
    return rows, columns
  if factors in ((*front, rows, 1), (*front, rows)):
    return 1, columns
  blocks = math.ceil(rows / block[0]), math.ceil(columns / block[1])
  return block if factors == (*front, *blocks) else None


def _block_size(config: Mapping[str, Any]) -> tuple[int, int]:
  """Rows and columns of a block of FP8 numbers; 128 x 128 by default."""
  settings = config.get('quantization_config') or {}
  size = 128, 128
  if isinstance(settings, dict):
    size = settings.get('weight_block_size') or size
  if (
    not isinstance(size, list | tuple)
    or len(size) != 2
    or any(type(n) is not int or n < 1 for n in size)
  ):
    raise errors.InputError(
      f'quantization_config.weight_block_size={size!r} of config.json must be '
      'two numbers of 1 or more: [128, 128], say'
    )
  return size[0], size[1]


def _check_types(
  name: str,
  entries: tuple[StoredTensor, ...],
  known: tuple[str, ...],
  config: Mapping[str, Any],
) -> None:
  types = {entry.dtype for entry in entries} - {*known}
  if types:
    raise errors.InputError(
      f'{name} is quantised{by(config)} with numbers or scales of '
      f'{min(types)}, which must be {" or ".join(known)} for moejax; {REMEDY}'
    )


def _check_fits(
  name: str, entry: StoredTensor, scales: StoredTensor, fits: bool
) -> None:
  if not fits:
    raise errors.InputError(
      f'{name} is quantised, but its numbers {list(entry.shape)} do not fit '
      f'its scales {list(scales.shape)}; fetch both again'
    )
