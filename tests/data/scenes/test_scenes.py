"""Drawn scenes: what is on the images, by another reading of their pixels."""

import collections
import json
import re

import numpy as np
import pytest
from PIL import Image

from moejax.core import errors
from moejax.data.scenes import drawing, questions, scene, sets
from moejax.data.vocab import SentencePiece

LISTED = questions.listed(scene.split(seed=0)[0])
COUNT = 100  # conversations to train on, and half as many held out


def read(image_HWC):
  """The shapes on an image, {cell: (colour, name)}, by pixels alone.

  A shape is named by the share of its bounding box that it fills: a square all
  of it, a circle pi / 4, a triangle about half.
  """
  found = {}
  for cell in range(9):
    top, left = 16 * (cell // 3), 16 * (cell % 3)
    part = image_HWC[top : top + 16, left : left + 16].astype(int)
    strong = part.max(-1) > 130
    if strong.sum() < 20:
      continue
    red, green, blue = part[strong].mean(0)
    colour = 'blue' if blue > max(red, green) else 'green'
    if red > 150:
      colour = 'yellow' if green > 130 else 'red'
    rows, columns = (np.flatnonzero(strong.any(axis)) for axis in (1, 0))
    box = strong[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    filled = box.mean()
    name = 'square' if filled > 0.92 else 'circle'
    found[cell] = colour, 'triangle' if filled < 0.68 else name
  return found


def answer(text, seen):
  """The answer to a question about {cell: (colour, name)}."""
  if text == 'Describe the image.':
    rows, columns = ('top ', '', 'bottom '), ('left', '', 'right')
    place = lambda cell: (rows[cell // 3] + columns[cell % 3]).strip()
    return ' '.join(
      f'A {colour} {name} is {place(cell) or "middle"}.'
      for cell, (colour, name) in sorted(seen.items())
    )
  if text == 'How many shapes are there?':
    return {1: 'one', 2: 'two', 3: 'three'}[len(seen)]
  if words := re.fullmatch(r'What colour is the (\w+)\?', text):
    return {name: colour for colour, name in seen.values()}[words[1]]
  if words := re.fullmatch(r'Which shape is (\w+)\?', text):
    return {colour: name for colour, name in seen.values()}[words[1]]
  words = re.fullmatch(r'Is the (\w+) (left of|above) the (\w+)\?', text)
  where = {name: divmod(cell, 3) for cell, (_, name) in seen.items()}
  (row, column), (other_row, other_column) = where[words[1]], where[words[3]]
  if words[2] == 'above':
    return 'yes' if row < other_row else 'no'
  return 'yes' if column < other_column else 'no'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('scenes')
  assert sets.write(folder, COUNT, COUNT // 2, seed=3)
  return folder


def talks(folder, place):
  return json.loads((folder / f'{place}.json').read_text())


def seen_in(folder, name):
  """The scenes of a set as they are read from its images."""
  return [
    read(np.asarray(Image.open(folder / talk['image'])))
    for kind in questions.KINDS
    for talk in talks(folder, f'{name}/{kind}')
  ]


@pytest.mark.parametrize('kind', questions.KINDS)
def test_the_answer_is_that_of_the_pixels(kind, folder):
  for name in sets.SETS:
    listed = talks(folder, f'{name}/{kind}')
    assert len(listed) == {'train': COUNT, 'held': COUNT // 2}[name] // 5
    for talk in listed:
      human, gpt = (turn['value'] for turn in talk['conversations'])
      seen = read(np.asarray(Image.open(folder / talk['image'])))
      assert answer(human.removeprefix('<image>'), seen) == gpt


def test_every_scene_is_on_its_image():
  rng = np.random.default_rng(0)
  scenes = [s for count in (1, 2, 3) for s in scene.all_scenes(count)]
  for drawn in scenes[::97]:
    wanted = {shape.cell: (shape.colour, shape.name) for shape in drawn}
    assert read(drawing.draw(drawn, rng)) == wanted


def test_held_out_scenes_are_on_no_image_to_train_on(folder):
  train = {tuple(sorted(s.items())) for s in seen_in(folder, 'train')}
  held = {tuple(sorted(s.items())) for s in seen_in(folder, 'held')}
  assert len(train) > 50
  assert len(held) > 20
  assert not train & held


def test_scenes_are_split_into_two_parts_of_all_numbers_of_shapes():
  """Of 108, 2,592 and 12,096 scenes one in eight is held out.

  108 = 9 cells * 3 shapes * 4 colours; 2,592 = 36 * 6 * 12 and 12,096 =
  84 * 6 * 24, with cells in their order.
  """
  train, held = scene.split(seed=5)
  assert len({*train, *held}) == len(train) + len(held) == 108 + 2592 + 12096
  assert collections.Counter(map(len, held)) == {1: 14, 2: 324, 3: 1512}
  assert {*held} != {*scene.split(seed=6)[1]}


@pytest.mark.parametrize('kind', questions.KINDS[1:])
def test_a_question_does_not_say_its_answer(kind):
  """Each question of a kind has all answers of the kind, equally often."""
  rng = np.random.default_rng(1)
  listed = LISTED[kind]
  answers = {answer for scenes in listed.values() for answer in scenes}
  assert all({*scenes} == answers for scenes in listed.values())
  num = 400 * len(answers)
  asked = [questions.drawn(kind, listed, rng)[1] for _ in range(num)]
  for count in collections.Counter(q.answer for q in asked).values():
    assert abs(count - 400) < 5 * 400**0.5
  per_text = collections.Counter(q.text for q in asked)
  for count in per_text.values():
    assert abs(count - num / len(listed)) < 5 * (num / len(listed)) ** 0.5
  assert per_text.keys() == listed.keys()


def test_captions_say_what_is_on_the_same_images(folder):
  for name in sets.SETS:
    for kind in questions.KINDS:
      pairs = zip(
        talks(folder, f'captions/{name}/{kind}'),
        talks(folder, f'told/{name}/{kind}'),
        talks(folder, f'{name}/{kind}'),
        strict=True,
      )
      for caption, told, seeing in pairs:
        assert caption['image'] == seeing['image']
        seen = read(np.asarray(Image.open(folder / caption['image'])))
        human, gpt = (turn['value'] for turn in caption['conversations'])
        assert human == '<image>Describe the image.'
        assert gpt == answer('Describe the image.', seen)
        question, right = (turn['value'] for turn in seeing['conversations'])
        question = question.removeprefix('<image>')
        assert [turn['value'] for turn in told['conversations']] == [
          f'{gpt} {question}',
          right,
        ]


def test_every_word_is_one_piece(folder):
  """So a row has room for as many conversations as can be."""
  vocab = SentencePiece(path=str(folder / 'words.model'))
  for text in ('User: A red circle is top left. Which shape is yellow?',):
    words = text.replace(':', ' :').replace('.', ' .').replace('?', ' ?')
    assert len(vocab.encode(text)) == len(words.split())
  assert vocab.size == sets.PIECES


def test_texts_alone_are_the_same_conversations(folder):
  for name in sets.SETS:
    for kind in questions.KINDS:
      pairs = zip(
        talks(folder, f'{name}/{kind}'),
        talks(folder, f'text/{name}/{kind}'),
        strict=True,
      )
      for seeing, blind in pairs:
        turns = seeing['conversations']
        value = turns[0]['value'].removeprefix('<image>')
        assert blind == {
          'conversations': [{'from': 'human', 'value': value}, turns[1]]
        }


def test_a_seed_gives_the_same_files(folder, tmp_path):
  contents = []
  for place, seed in ((tmp_path / 'a', 3), (tmp_path / 'b', 4)):
    sets.write(place, COUNT, COUNT // 2, seed)
    contents.append([
      (str(path.relative_to(place)), path.read_bytes())
      for path in sorted(place.rglob('*'))
      if path.suffix == '.png'
    ])
  first = [
    (str(path.relative_to(folder)), path.read_bytes())
    for path in sorted(folder.rglob('*.png'))
  ]
  assert contents[0] == first
  assert contents[1] != first


def test_a_folder_keeps_its_scenes(folder):
  path = folder / 'train' / 'count.json'
  before = path.stat().st_mtime_ns
  assert not sets.write(folder, COUNT, COUNT // 2, seed=3)
  with pytest.raises(errors.InputError, match=r"other scenes, \{'train': 100"):
    sets.write(folder, COUNT, COUNT // 2, seed=4)
  assert path.stat().st_mtime_ns == before
