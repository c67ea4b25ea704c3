"""The pixels of a scene."""

import numpy as np

from moejax.data.scenes.scene import GRID, Scene

CELL = 16  # rows and columns of a cell, in pixels
SIDE = GRID * CELL  # of an image
PAINT = {
  'red': (215, 45, 45),
  'green': (45, 165, 60),
  'blue': (50, 75, 215),
  'yellow': (225, 205, 50),
}
_GREY, _NOISE = 128, 10  # mean and standard deviation of the background
_SIZES = 9, 12  # a shape has 9, 10, 11 or 12 rows and columns


def draw(scene: Scene, rng: np.random.Generator) -> np.ndarray:
  """The image of a scene, uint8 [SIDE, SIDE, 3], on a noisy grey.

  Each shape has a size of its own and stands anywhere in its cell.

  Args:
    scene: the shapes.
    rng: random numbers of sizes, places and noise.
  """
  image_HWC = np.full((SIDE, SIDE, 3), _GREY, float)
  for shape in scene:
    size = int(rng.integers(_SIZES[0], _SIZES[1] + 1))
    top, left = (int(n) for n in rng.integers(1, CELL - size, 2))
    top += shape.row * CELL
    left += shape.column * CELL
    part_HWC = image_HWC[top : top + size, left : left + size]
    part_HWC[_mask(shape.name, size)] = PAINT[shape.colour]
  image_HWC += rng.normal(0, _NOISE, image_HWC.shape)
  return np.clip(image_HWC, 0, 255).astype(np.uint8)


def _mask(name: str, size: int) -> np.ndarray:
  """Which pixels of a square of `size` rows a shape fills, bool."""
  row_H1, column_1W = np.ogrid[:size, :size]
  middle = (size - 1) / 2
  if name == 'square':
    return np.full((size, size), True)
  if name == 'circle':
    distance = (row_H1 - middle) ** 2 + (column_1W - middle) ** 2
    return distance <= (size / 2) ** 2
  return np.abs(column_1W - middle) <= (row_H1 + 1) / 2
