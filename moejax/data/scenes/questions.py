"""What can be asked about a scene, and the one right answer.

describe  Describe the image.       A red circle is top left. A blue ...
count     How many shapes are there?         one, two, three
colour    What colour is the circle?         red, green, blue, yellow
shape     Which shape is red?                circle, square, triangle
relation  Is the circle left of the square?  yes, no
          Is the circle above the square?
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from moejax.data.scenes.scene import CELLS, Scene

KINDS = ('describe', 'count', 'colour', 'shape', 'relation')
_NUMBERS = ('one', 'two', 'three')


class Question(NamedTuple):
  """A question about a scene.

  Attributes:
    kind: one of KINDS.
    text: the question.
    answer: the right answer.
  """

  kind: str
  text: str
  answer: str


def questions(scene: Scene) -> Iterator[Question]:
  """Every question about a scene; the first asks for its description."""
  sentences = (
    f'A {shape.colour} {shape.name} is {CELLS[shape.cell]}.' for shape in scene
  )
  yield Question('describe', 'Describe the image.', ' '.join(sentences))
  number = _NUMBERS[len(scene) - 1]
  yield Question('count', 'How many shapes are there?', number)
  for shape in scene:
    text = f'What colour is the {shape.name}?'
    yield Question('colour', text, shape.colour)
    yield Question('shape', f'Which shape is {shape.colour}?', shape.name)
  for one, other in itertools.permutations(scene, 2):
    for word, place, other_place in (
      ('left of', one.column, other.column),
      ('above', one.row, other.row),
    ):
      if place != other_place:
        text = f'Is the {one.name} {word} the {other.name}?'
        answer = 'yes' if place < other_place else 'no'
        yield Question('relation', text, answer)


T = TypeVar('T')
# Scenes by question of a kind, by its answer, and by their number of shapes.
Listed = Mapping[str, Mapping[str, Mapping[int, Sequence[Scene]]]]


def listed(scenes: Sequence[Scene]) -> Mapping[str, Listed]:
  """The scenes that questions are about, by kind of question."""
  found: dict[str, Any] = {}
  for scene in scenes:
    for kind, text, answer in questions(scene):
      answers = found.setdefault(kind, {}).setdefault(text, {})
      # Each scene has a description of its own.
      by_count = answers.setdefault('' if kind == 'describe' else answer, {})
      by_count.setdefault(len(scene), []).append(scene)
  return found


def drawn(
  kind: str, scenes: Listed, rng: np.random.Generator
) -> tuple[Scene, Question]:
  """A random question, one of its answers, and a scene of that answer.

  Each is drawn with equal chances, so the text of a question says nothing
  about its answer: without the image only a guess is left. The number of shapes
  in the scene is drawn likewise, before the scene.

  Args:
    kind: one of KINDS.
    scenes: those of the kind, made by `listed`.
    rng: random numbers.
  """
  text = _one_of([*scenes], rng)
  by_count = scenes[text][_one_of([*scenes[text]], rng)]
  scene = _one_of(by_count[_one_of([*by_count], rng)], rng)
  return scene, next(
    question
    for question in questions(scene)
    if (question.kind, question.text) == (kind, text)
  )


def _one_of(items: Sequence[T], rng: np.random.Generator) -> T:
  return items[int(rng.integers(len(items)))]
