"""Scenes: up to three shapes, each in a cell of its own."""

import itertools
import math
from typing import NamedTuple

import numpy as np

SHAPES = ('circle', 'square', 'triangle')
COLOURS = ('red', 'green', 'blue', 'yellow')
GRID = 3  # rows and columns of cells
CELLS = (
  'top left', 'top', 'top right',
  'left', 'middle', 'right',
  'bottom left', 'bottom', 'bottom right',
)  # fmt: skip
HELD_OUT = 8  # one scene of so many


class Shape(NamedTuple):
  """A shape of a scene.

  Attributes:
    name: one of SHAPES.
    colour: one of COLOURS.
    cell: index in CELLS.
  """

  name: str
  colour: str
  cell: int

  @property
  def row(self) -> int:
    """From 0 at the top."""
    return self.cell // GRID

  @property
  def column(self) -> int:
    """From 0 on the left."""
    return self.cell % GRID


# Shapes in the order of their cells.
Scene = tuple[Shape, ...]


def all_scenes(count: int) -> list[Scene]:
  """Every scene of `count` shapes, whose names and colours all differ.

  There are 108 scenes of one shape, 2,592 of two and 12,096 of three.
  """
  return [
    tuple(map(Shape, names, colours, cells))
    for cells in itertools.combinations(range(len(CELLS)), count)
    for names in itertools.permutations(SHAPES, count)
    for colours in itertools.permutations(COLOURS, count)
  ]


def split(seed: int) -> tuple[list[Scene], list[Scene]]:
  """All scenes: those to train on, and those that are held out.

  One scene of HELD_OUT is held out, of each number of shapes.

  Args:
    seed: of the choice.
  """
  rng = np.random.default_rng(seed)
  train: list[Scene] = []
  held: list[Scene] = []
  for count in range(1, len(SHAPES) + 1):
    scenes = all_scenes(count)
    order = rng.permutation(len(scenes))
    cut = math.ceil(len(scenes) / HELD_OUT)
    held += [scenes[n] for n in order[:cut]]
    train += [scenes[n] for n in order[cut:]]
  return train, held
