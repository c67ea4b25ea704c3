"""Scenes: up to three shapes, each in a corner of its own."""

import itertools
import math
from typing import NamedTuple

import numpy as np

SHAPES = ('circle', 'square', 'triangle')
COLOURS = ('red', 'green', 'blue', 'yellow')
CORNERS = ('top left', 'top right', 'bottom left', 'bottom right')
HELD_OUT = 8  # one scene of so many


class Shape(NamedTuple):
  """A shape of a scene.

  Attributes:
    name: one of SHAPES.
    colour: one of COLOURS.
    corner: index in CORNERS.
  """

  name: str
  colour: str
  corner: int

  @property
  def row(self) -> int:
    """0 at the top, 1 at the bottom."""
    return self.corner // 2

  @property
  def column(self) -> int:
    """0 on the left, 1 on the right."""
    return self.corner % 2


# Shapes in the order of their corners.
Scene = tuple[Shape, ...]


def all_scenes(count: int) -> list[Scene]:
  """Every scene of `count` shapes, whose names and colours all differ.

  There are 48 scenes of one shape, 432 of two and 576 of three.
  """
  return [
    tuple(map(Shape, names, colours, corners))
    for corners in itertools.combinations(range(len(CORNERS)), count)
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
