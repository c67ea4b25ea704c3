"""The pixels of a scene."""

import numpy as np

from moejax.data.scenes.scene import GRID, Scene

CELL = 16  # rows and columns of a cell, in pixels
SIDE = GRID * CELL  # of an image
PAINT = {
  'red': (230, 60, 60),
  'green': (60, 200, 80),
  'blue': (70, 100, 235),
  'yellow': (235, 215, 60),
}
_GREY, _NOISE = 25, 10  # mean and standard deviation of the background
_SIZE = 12  # rows and columns of a shape, in the middle of its cell
_BRIGHT = 0.85, 1.1  # factor of the paint of a shape, at least and at most


def draw(scene: Scene, rng: np.random.Generator) -> np.ndarray:
  """The image of a scene, uint8 [SIDE, SIDE, 3], on a noisy dark grey.

  Each shape has a brightness of its own.

  Args:
    scene: the shapes.
    rng: random numbers of brightness and noise.
  """
  image_HWC = np.full((SIDE, SIDE, 3), _GREY, float)
  for shape in scene:
    top = shape.row * CELL + (CELL - _SIZE) // 2
    left = shape.column * CELL + (CELL - _SIZE) // 2
    part_HWC = image_HWC[top : top + _SIZE, left : left + _SIZE]
    paint = np.array(PAINT[shape.colour]) * rng.uniform(*_BRIGHT)
    part_HWC[_mask(shape.name)] = paint
  image_HWC += rng.normal(0, _NOISE, image_HWC.shape)
  return np.clip(image_HWC, 0, 255).astype(np.uint8)


def _mask(name: str) -> np.ndarray:
  """Which pixels of the square around a shape it fills, bool."""
  size = _SIZE
  row_H1, column_1W = np.ogrid[:size, :size]
  middle = (size - 1) / 2
  if name == 'square':
    return np.full((size, size), True)
  if name == 'circle':
    distance = (row_H1 - middle) ** 2 + (column_1W - middle) ** 2
    return distance <= (size / 2) ** 2
  return np.abs(column_1W - middle) <= (row_H1 + 1) / 2
