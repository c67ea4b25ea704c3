"""Rows have the images of their conversations, whatever is packed together."""

import errno
import json
import os
import pathlib
import re
import shutil
import sys

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from moejax.core import config_tree, errors, files
from moejax.data import build, config, features, loader, preview, vocab

COLOURS = {
  'red': (255, 0, 0),
  'blue': (0, 0, 255),
  'grey': (127, 127, 127),
  'white': (255, 255, 255),
}
TOKENS = 4
LENGTH = 200


def ask(colours, *, image=None):
  """A conversation of as many turns as images, each with its answer."""
  turns = []
  for colour in colours:
    turns += [
      {'from': 'human', 'value': '<image>\nWhat?'},
      {'from': 'gpt', 'value': f'It is {colour}.'},
    ]
  names = [f'{colour}.png' for colour in colours]
  image = names if image is None else image
  return {'image': image, 'conversations': turns}


def plain(number):
  turns = [
    {'from': 'human', 'value': f'And {number}?'},
    {'from': 'gpt', 'value': f'No {number}.'},
  ]
  return {'conversations': turns}


@pytest.fixture
def folder(tmp_path):
  """A folder of images; no two conversations have the same text."""
  for name, colour in COLOURS.items():
    image = Image.new('RGB', (8, 6), colour)
    image.save(tmp_path / f'{name}.png')
  return tmp_path


def built(folder, rows, *, validation=None, **keys):
  notes = []
  for name, listed in (('train', rows), ('held', validation or rows)):
    text = ''.join(json.dumps(row) + '\n' for row in listed)
    (folder / f'{name}.jsonl').write_text(text)
  own = config_of(folder, **keys)
  own.check_used()
  report = lambda progress: notes.append(progress.note)
  return build.build(own, 4, 0, report), [note for note in notes if note]


def config_of(folder, **keys):
  flags = {
    'conversations': str(folder / 'train.jsonl'),
    'validation_files': str(folder / 'held.jsonl'),
    'chat.template': 'chatml',
    'vocab.name': 'bytes',
    'sequence_length': str(LENGTH),
    'cache_dir': str(folder / 'cache'),
    'images.folder': str(folder),
    'images.tokens': str(TOKENS),
    'images.prepare.size': '4,4',
    **keys,
  }
  return config_tree.override_all(config.DataConfig(), [*flags.items()])


def every(reader):
  return loader.eval_batch(reader, 0, reader.num_rows)


def pixel(colour):
  """What the encoder reads of a colour: mean and deviation are one half."""
  return np.array(COLOURS[colour]) / 255 * 2 - 1


def check_batch(batch):
  """Each image of a row is the one that its segment tells of; returns them."""
  seen = []
  images = batch.images
  for row in range(len(batch.token_BL)):
    number = 0
    for segment in range(1, batch.segment_BL[row].max() + 1):
      here_L = batch.segment_BL[row] == segment
      said = vocab.Bytes().decode(batch.target_BL[row][here_L])
      colours = [word.partition('.')[0] for word in said.split('It is ')[1:]]
      assert images.is_image_BL[row][here_L].sum() == TOKENS * len(colours)
      for colour in colours:
        found = images.image_BIHWC[row, number]
        np.testing.assert_allclose(found - pixel(colour), 0, atol=1e-6)
        number += 1
      seen += colours
    assert images.num_B[row] == number
    assert not images.image_BIHWC[row, number:].any()
    kept = batch.target_BL[row][batch.weight_BL[row] > 0]
    whole = vocab.Bytes().decode(batch.target_BL[row])
    wanted = re.findall(r'assistant\n(.*?<\|im_end\|>)', whole)
    assert vocab.Bytes().decode(kept) == ''.join(wanted)
  # No loss on images, and none of them in padding.
  shifted_BL = np.pad(images.is_image_BL, ((0, 0), (0, 1)))[:, 1:]
  assert not (batch.weight_BL * shifted_BL).any()
  return seen


MIXED = [
  ask(['red']),
  ask(['blue', 'grey']),
  plain(1),
  ask(['white', 'red']),
  ask(['grey']),
  plain(2),
  ask(['blue']),
]


def test_every_conversation_has_its_own_images(folder):
  data, _ = built(folder, MIXED)
  batch = every(data.domains['conversations'].train)
  assert sorted(check_batch(batch)) == sorted([
    'red',
    'blue',
    'grey',
    'white',
    'red',
    'grey',
    'blue',
  ])
  # Rows hold several conversations, and images of several of them.
  assert (batch.images.num_B > 1).any()
  assert batch.segment_BL.max() > 1
  assert batch.images.image_BIHWC.shape[1] == LENGTH // TOKENS


def test_a_process_reads_its_own_rows_of_a_batch(folder):
  data, _ = built(folder, MIXED)
  check_batch(data.train.batch(3))
  one = data.train.batch(3, np.array([2]))
  np.testing.assert_array_equal(
    one.images.image_BIHWC[0], data.train.batch(3).images.image_BIHWC[2]
  )


def test_the_text_around_an_image_is_as_it_was_written(folder):
  data, _ = built(folder, [ask(['red'])])
  batch = every(data.domains['conversations'].train)
  ids = batch.token_BL[0][batch.segment_BL[0] > 0]
  is_image = batch.images.is_image_BL[0][batch.segment_BL[0] > 0]
  (at,) = np.nonzero(is_image)
  assert [*at] == [*range(at[0], at[0] + TOKENS)]
  text = vocab.Bytes().decode
  assert text(ids[: at[0]]).endswith('user\n')
  assert text(ids[at[-1] + 1 :]).startswith('\nWhat?')


def test_an_answer_that_is_cut_takes_its_images_with_it(folder):
  short = {'sequence_length': '90'}
  data, notes = built(folder, [ask(['red', 'blue', 'grey'])], **short)
  assert check_batch(every(data.domains['conversations'].train)) == ['red']
  assert any('the last 2 answers are left out' in note for note in notes)


def test_a_preview_shows_the_vocabulary_s_ids(folder):
  rows = [ask(['red']), ask(['blue'])]
  data, _ = built(folder, rows)
  reader = data.domains['conversations'].train
  assert features.ids(reader.rows(np.arange(1)).target_NL).max() < 259
  own = config_of(folder, cache_dir=str(folder / 'other'))
  shown = preview.first_rows(own, 1, 0, 1)
  assert shown.rows.token_BL.max() < 259


BAD = {
  'none.png': r'none\.png.* is not there',
  'bad.png': r'bad\.png is damaged',
  '../up.png': r'leads out of the folder',
  'huge.png': r'more than max_pixels=100',
}


@pytest.mark.parametrize('name', BAD)
def test_bad_images_stop_the_run_or_are_counted(folder, name):
  (folder / 'bad.png').write_bytes((folder / 'red.png').read_bytes()[:40])
  Image.new('RGB', (20, 20)).save(folder / 'huge.png')
  rows = [
    ask(['red'], image=[name]),
    ask(['blue']),
    ask(['grey'], image=[name]),
  ]
  limit = {'images.read.max_pixels': '100'}
  with pytest.raises(errors.InputError) as caught:
    built(folder, rows, **limit)
  line = str(caught.value)
  assert line.startswith('1 of 2 images cannot be used, the first: ')
  assert '\n' not in line
  assert re.search(BAD[name], line)
  data, notes = built(folder, rows, bad_lines='skip', **limit)
  assert check_batch(every(data.domains['conversations'].train)) == ['blue']
  assert any('left out 2 bad documents' in note for note in notes)


def test_files_that_may_not_be_read_are_left_out(folder, monkeypatch):
  refused = str(folder / 'red.png')
  access, plain_open = os.access, open

  def refusing(path, *args, **more):
    if os.fspath(path) == refused:
      raise PermissionError(errno.EACCES, 'Permission denied')
    return plain_open(path, *args, **more)

  # The superuser may read everything, so the system is not asked.
  monkeypatch.setattr('builtins.open', refusing)
  monkeypatch.setattr(pathlib.Path, 'open', refusing)
  may = lambda path, mode: str(path) != refused and access(path, mode)
  monkeypatch.setattr(os, 'access', may)
  rows = [ask(['red']), ask(['blue'])]
  with pytest.raises(errors.InputError, match=r'1 of 2 images .*Permission de'):
    built(folder, rows)
  data, _ = built(folder, rows, bad_lines='skip')
  assert check_batch(every(data.domains['conversations'].train)) == ['blue']


def test_no_file_outside_of_the_folder_is_opened(folder, monkeypatch):
  (folder / 'in').mkdir()
  shutil.copy(folder / 'blue.png', folder / 'in')
  opened, digest = [], files.sha256
  monkeypatch.setattr(
    files, 'sha256', lambda path: opened.append(path.name) or digest(path)
  )
  rows = [ask(['red'], image=['../red.png']), ask(['blue'])]
  built(folder, rows, bad_lines='skip', **{'images.folder': f'{folder}/in'})
  assert 'blue.png' in opened
  assert 'red.png' not in opened


def test_without_pillow_no_image_counts_as_bad(folder, monkeypatch):
  monkeypatch.setitem(sys.modules, 'PIL', None)
  with pytest.raises(errors.InputError, match='^images need Pillow: pip ins'):
    built(folder, [ask(['red']), ask(['blue'])], bad_lines='skip')
  monkeypatch.undo()
  built(folder, [ask(['red']), ask(['blue'])])


def test_changed_images_are_read_again(folder):
  first, _ = built(folder, [ask(['red'])])
  Image.new('RGB', (8, 6), COLOURS['blue']).save(folder / 'red.png')
  second, _ = built(folder, [ask(['red'])])
  images = every(second.domains['conversations'].train).images
  np.testing.assert_allclose(
    images.image_BIHWC[0, 0, 0, 0], pixel('blue'), atol=1e-6
  )
  assert build.identity(first) != build.identity(second)
  assert build.contents(first) != build.contents(second)


def test_a_store_that_lost_bytes_is_refused(folder):
  built(folder, [ask(['red'])])
  (place,) = (folder / 'cache').glob('images-*/images.bin')
  place.write_bytes(place.read_bytes()[:-1])
  with pytest.raises(errors.InputError, match='are damaged: images.bin has an'):
    built(folder, [ask(['red'])])


def test_features_take_the_place_of_pixels(folder):
  wanted = {
    f'{name}.png': np.full((TOKENS, 3), n, np.float32)
    for n, name in enumerate(COLOURS)
  }
  save_file(wanted, folder / 'features.safetensors')
  key = {'images.features': str(folder / 'features.safetensors')}
  data, _ = built(folder, [ask(['blue', 'white'])], **key)
  images = every(data.domains['conversations'].train).images
  assert images.image_BIHWC is None
  np.testing.assert_array_equal(
    images.feature_BIND[0, :3, 0], [[1, 1, 1], [3, 3, 3], [0, 0, 0]]
  )


@pytest.mark.parametrize(
  ('tensors', 'message'),
  [
    ({'red.png': np.zeros((3, 2))}, r'shapes \(3, 2\); all must be \[4, D\]'),
    ({'blue.png': np.zeros((4, 2))}, r'image red\.png is not in'),
    (None, r'features=.* cannot be read'),
  ],
)
def test_features_that_do_not_fit_are_refused(folder, tensors, message):
  file = folder / 'features.safetensors'
  if tensors is not None:
    save_file(tensors, file)
  with pytest.raises(errors.InputError, match=message):
    built(folder, [ask(['red'])], **{'images.features': str(file)})


@pytest.mark.parametrize(
  ('keys', 'message'),
  [
    ({'images.prepare.size': '4'}, r'size=\(4,\) keeps the ratio'),
    (
      {'images.prepare.mean': '0.5'},
      r'data\.images\.prepare\.mean=\(0\.5,\) must have 3 numbers',
    ),
    ({'images.folder': 'nowhere'}, r"images\.folder='nowhere' is no folder"),
    (
      {
        'conversations': '',
        'validation_files': '',
        'mixture': 'synthetic',
        'chat.template': '',
      },
      'data.images is about conversations, and there are none',
    ),
  ],
)
def test_keys_that_do_not_fit_are_refused(folder, keys, message):
  with pytest.raises(errors.InputError, match=message):
    built(folder, [ask(['red'])], **keys)
