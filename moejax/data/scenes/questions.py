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
from typing import NamedTuple

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


# Scenes by question of a kind and by its answer.
Listed = Mapping[str, Mapping[str, Sequence[Scene]]]


def listed(scenes: Sequence[Scene]) -> Mapping[str, Listed]:
  """The scenes that questions are about, by kind of question."""
  found: dict[str, dict[str, dict[str, list[Scene]]]] = {}
  for scene in scenes:
    for kind, text, answer in questions(scene):
      answers = found.setdefault(kind, {}).setdefault(text, {})
      answers.setdefault(answer, []).append(scene)
  return found


def drawn(
  kind: str, scenes: Listed, rng: np.random.Generator
) -> tuple[Scene, Question]:
  """A random question, one of its answers, and a scene of that answer.

  Each is drawn with equal chances, so the text of a question says nothing
  about its answer: without the image only a guess is left.

  Args:
    kind: one of KINDS.
    scenes: those of the kind, made by `listed`.
    rng: random numbers.
  """
  texts = [*scenes]
  text = texts[int(rng.integers(len(texts)))]
  answers = [*scenes[text]]
  answer = answers[int(rng.integers(len(answers)))]
  chosen = scenes[text][answer]
  return chosen[int(rng.integers(len(chosen)))], Question(kind, text, answer)
