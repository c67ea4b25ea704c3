"""Position embeddings of a square grid of patches, for grids of other sizes.

They are interpolated by the bicubic kernel of PyTorch: a = -0.75, no
antialiasing, pixel centres at half integers, and indices clamped to the grid.
`jax.image.resize` has a = -0.5 and antialiases when it shrinks, so its results
differ.
"""

import jax
import jax.numpy as jnp
import numpy as np

_A = -0.75  # the parameter of the cubic convolution kernel in PyTorch


def interpolation(old: int, new: int) -> np.ndarray:
  """Weights [new, old] of the old places in each new one, along one axis.

  Source of the kernel: Keys, "Cubic convolution interpolation for digital image
  processing", 1981, equation 15, with another parameter.

  Example:
    interpolation(2, 2)  [[1, 0], [0, 1]]
  """
  place = (np.arange(new) + 0.5) * (old / new) - 0.5
  first = np.floor(place).astype(int)
  weights = np.zeros((new, old))
  for tap in range(-1, 3):
    distance = np.abs(place - (first + tap))
    index = np.clip(first + tap, 0, old - 1)
    np.add.at(weights, (np.arange(new), index), _cubic(distance))
  return weights.astype(np.float32)


def _cubic(distance: np.ndarray) -> np.ndarray:
  """The kernel at distances from 0 to 2."""
  x = distance
  near = (_A + 2) * x**3 - (_A + 3) * x**2 + 1
  far = _A * (x**3 - 5 * x**2 + 8 * x - 4)
  return np.where(x <= 1, near, far)


def resized(position_MD: jax.Array, rows: int, columns: int) -> jax.Array:
  """Position embeddings of a grid of `rows` x `columns` patches.

  Args:
    position_MD: float32, embeddings of a square grid, row by row.
    rows: number of rows of the new grid.
    columns: number of its columns.

  Returns:
    float32 [rows * columns, D], row by row.
  """
  side = round(position_MD.shape[0] ** 0.5)
  if (rows, columns) == (side, side):
    return position_MD
  grid = position_MD.reshape(side, side, -1)
  exact = jax.lax.Precision.HIGHEST
  grid = jnp.einsum(
    'rs,cq,sqd->rcd',
    interpolation(side, rows),
    interpolation(side, columns),
    grid,
    precision=exact,
  )
  return grid.reshape(rows * columns, -1)
