"""Files of scenes: images, and conversations about them with and without.

write(folder, train=8000, held=1000, seed=0)

FOLDER/train/colour.json        conversations with images, one kind a file
FOLDER/train/colour/00000.png   their images
FOLDER/held/...                 the same of scenes that are not in train
FOLDER/text/train/colour.json   the same conversations without images, for a
                                model that reads text alone
FOLDER/scenes.json              how they were made; written last
"""

import json
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from moejax.core import errors, files
from moejax.data import train_tokenizer
from moejax.data.scenes import drawing, questions, scene
from moejax.vision import pillow

SETS = ('train', 'held')
FORMS = ('text', 'told', 'captions')  # of conversations, beside images
_MADE = 'scenes.json'
_WORDS = 'words.model'
SKIPPED = 9  # one scene of so many is enough to see all words
PIECES = 440  # of the vocabulary, 256 of which are bytes
_VERSION = 1  # of what is drawn and asked


def write(folder: pathlib.Path, train: int, held: int, seed: int) -> bool:
  """Draws scenes and writes conversations about them.

  Args:
    folder: where to; it is made.
    train: number of conversations to train on, over all kinds of questions.
    held: number of conversations that are held out.
    seed: of scenes, questions and pixels.

  Returns:
    Whether they were written; False where the folder has them already.

  Raises:
    InputError: the folder has other scenes or other files, or cannot be
      written.
  """
  made = {'train': train, 'held': held, 'seed': seed, 'version': _VERSION}
  if (folder / _MADE).exists():
    _check_made(folder, made)
    return False
  files.check_writable(folder, '--to')
  _check_no_others(folder)
  for name, scenes in zip(SETS, scene.split(seed), strict=True):
    listed = questions.listed(scenes)
    for number, kind in enumerate(questions.KINDS):
      rng = np.random.default_rng([seed, SETS.index(name), number])
      share = len(range(number, made[name], len(questions.KINDS)))
      _write_kind(folder, f'{name}/{kind}', listed[kind], share, rng)
  words = train_tokenizer.train(_texts(), PIECES)
  files.atomic_write_bytes(folder / _WORDS, words)
  files.atomic_write_json(folder / _MADE, made)
  return True


def _texts() -> Iterator[str]:
  """All that can be said, in the words of a chat template."""
  for count in range(1, len(scene.SHAPES) + 1):
    for one in scene.all_scenes(count)[::SKIPPED]:
      for question in questions.questions(one):
        yield f'User: {question.text}'
        yield f'Assistant: {question.answer}'


def _check_made(folder: pathlib.Path, made: dict[str, int]) -> None:
  """Raises InputError unless a folder's scenes were made like this."""
  try:
    old = json.loads((folder / _MADE).read_text(encoding='utf-8'))
  except ValueError:
    old = f'of which {_MADE} is damaged'
  if old != made:
    raise errors.InputError(
      f'{folder} has other scenes, {old}: remove it, or take another --to'
    )


def _check_no_others(folder: pathlib.Path) -> None:
  """Raises InputError if a folder has what no earlier, stopped call wrote."""
  own = {*SETS, *FORMS, _WORDS, f'{_WORDS}.part', f'{_MADE}.part'}
  names = {path.name for path in folder.iterdir()} - own
  others = sorted(name for name in names if not name.startswith('.'))
  if others:
    raise errors.InputError(
      f'{folder} has other files, such as {others[0]!r}: take another --to'
    )


def _write_kind(
  folder: pathlib.Path,
  place: str,
  scenes: questions.Listed,
  count: int,
  rng: np.random.Generator,
) -> None:
  """Writes conversations of one kind, and their images."""
  image_module, _ = pillow.modules()
  kind = place.rpartition('/')[2]
  (folder / place).mkdir(parents=True, exist_ok=True)
  seeing, blind, told, captions = [], [], [], []
  for number in range(count):
    drawn, question = questions.drawn(kind, scenes, rng)
    file = f'{place}/{number:05d}.png'
    pixels = image_module.fromarray(drawing.draw(drawn, rng))
    pixels.save(folder / file)
    seeing.append({'image': file, **_talk('<image>' + question.text, question)})
    blind.append(_talk(question.text, question))
    caption = next(questions.questions(drawn))
    told.append(_talk(f'{caption.answer} {question.text}', question))
    captions.append({'image': file, **_talk(f'<image>{caption.text}', caption)})
  forms = dict(zip(FORMS, (blind, told, captions), strict=True))
  for form, talks in {'': seeing, **forms}.items():
    path = folder / form / f'{place}.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    files.atomic_write_text(path, json.dumps(talks, indent=1))


def _talk(text: str, question: questions.Question) -> dict[str, Any]:
  return {
    'conversations': [
      {'from': 'human', 'value': text},
      {'from': 'gpt', 'value': question.answer},
    ]
  }
