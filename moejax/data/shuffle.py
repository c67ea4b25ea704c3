"""Hashes and permutations as pure functions, for an order without state.

They are written out here and not taken from a random number library, because a
resumed run must find the same rows after an upgrade of that library. Everything
is vectorised and wraps modulo 2**64, as unsigned numpy arrays do.
"""

import numpy as np

_ROUNDS = 6


def mix(x_N: np.ndarray) -> np.ndarray:
  """A well-mixed 64-bit hash of each number.

  The finaliser of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom
  number generators, OOPSLA 2014, figure 16), a bijection of 64-bit numbers.
  """
  x_N = np.asarray(x_N, np.uint64) + np.uint64(0x9E3779B97F4A7C15)
  x_N = (x_N ^ (x_N >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  x_N = (x_N ^ (x_N >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return x_N ^ (x_N >> np.uint64(31))


def key(*parts: int | np.ndarray) -> np.ndarray:
  """One 64-bit key from several integers; arrays are combined by element."""
  arrays = np.broadcast_arrays(*(np.atleast_1d(_wrap(p)) for p in parts))
  result = np.zeros(arrays[0].shape, np.uint64)
  for part in arrays:
    result = mix(result ^ part.astype(np.uint64))
  return result


def _wrap(part: int | np.ndarray) -> np.ndarray:
  """Any integer modulo 2**64, so that negative seeds work too."""
  if isinstance(part, int):
    return np.array(part % 2**64, np.uint64)
  return np.asarray(part)


def order(size: int, key_1: np.ndarray) -> np.ndarray:
  """A permutation of range(size) as an array, for small sizes."""
  slot_N = np.arange(size, dtype=np.uint64)
  return np.argsort(mix(mix(slot_N) ^ key_1), kind='stable')


def permute(index_N: np.ndarray, size: int, key_N: np.ndarray) -> np.ndarray:
  """The image of each index under the permutation of range(size) of its key.

  A Feistel network over the next power of four is a bijection whatever its
  round function is. An index that lands outside range(size) is sent through
  again (cycle walking; Black and Rogaway, Ciphers with arbitrary finite
  domains, 2002, section 3), which keeps it a bijection of range(size). So a
  permutation of any size takes no memory, and only the indices asked for are
  computed.

  Args:
    index_N: integers in [0, size).
    size: number of elements of the permutation.
    key_N: selects the permutation, for each index.

  Returns:
    int64 [N], in [0, size).
  """
  half = np.uint64(max(1, -(-(size - 1).bit_length() // 2)))
  mask = np.uint64(2 ** int(half) - 1)
  key_N = np.broadcast_to(key_N, np.shape(index_N))
  out_N = np.array(index_N, np.uint64)
  outside = np.ones(out_N.shape, bool)
  while outside.any():
    x_M, key_M = out_N[outside], key_N[outside]
    left_M, right_M = x_M >> half, x_M & mask
    for round_ in range(_ROUNDS):
      noise_M = mix(right_M ^ mix(key_M + np.uint64(round_)))
      left_M, right_M = right_M, left_M ^ (noise_M & mask)
    out_N[outside] = (left_M << half) | right_M
    outside = out_N >= np.uint64(size)
  return out_N.astype(np.int64)
