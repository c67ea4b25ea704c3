"""A LLaVA answers prompts of images and text."""

import dataclasses
import functools
import re
from unittest import mock

import jax
import numpy as np
import pytest
from helpers import llava as helper
from PIL import Image

from moejax.core import errors
from moejax.evals import image_engine
from moejax.evals.benchmark import Prompt
from moejax.evals.picture import Picture, of_cell
from moejax.vision import images
from moejax.vision.preprocessing import CLIP_MEAN, CLIP_STD

# Of the form of llava-hf's: images first, then texts.
PARTS = """{% for message in messages %}{{ 'w7 ' }}
{%- for part in message['content'] if part['type'] == 'image' -%}
{{ '<image> ' }}{% endfor %}
{%- for part in message['content'] if part['type'] == 'text' -%}
{{ part['text'] }}{% endfor %}{% endfor %}
{%- if add_generation_prompt %}{{ ' w8' }}{% endif %}"""
WHOLE = "{{ 'w7 ' + messages[0]['content'] + ' w8' }}"
IMAGE, EACH = 59, 4


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
  path = tmp_path_factory.mktemp('photos')
  rng = np.random.default_rng(0)
  for name in ('a.png', 'b.png'):
    pixels = rng.integers(0, 256, (16, 16, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path / name)
  return path


@pytest.fixture(scope='module')
def engine(tmp_path_factory):
  path = helper.speaking(tmp_path_factory.mktemp('hf') / 'clip')
  return image_engine.open_folder(str(path), helper.mesh())


def asked(photos, text, names=(), **keys):
  pictures = tuple(Picture('row 1', None, str(photos), n) for n in names)
  return Prompt(text, lambda _: {}, images=pictures, **keys)


def templated(engine, text):
  template = image_engine.templates.Template(text, 'the template', {})
  return dataclasses.replace(engine, template=template)


def greedy(engine, photos, names, ids, count):
  """Words by whole passes without a cache, of images prepared by hand."""
  pixels = [np.asarray(Image.open(photos / n)) / 255 for n in names]
  images = (np.stack(pixels) - CLIP_MEAN) / np.array(CLIP_STD)
  feature_NPD = [
    engine.sight.encode(engine.weights, image[None].astype(np.float32))[0]
    for image in images
  ]
  feature_BID = np.zeros((1, 2 * EACH, 32), np.float32)
  feature_BID[0, : EACH * len(names)] = np.concatenate(feature_NPD)
  words = []
  for _ in range(count):
    token_BL = np.zeros((1, 24), np.int32)
    token_BL[0, : len(ids)] = ids
    logits_BLV = whole_pass(engine.sight.model)(
      engine.weights, token_BL, feature_BID
    )
    ids = [*ids, int(logits_BLV[0, len(ids) - 1].argmax())]
    words.append(f'w{ids[-1]}')
  return words


@functools.cache
def whole_pass(model):
  return jax.jit(model.logits)


def test_features_stand_in_the_places_of_images(engine, photos):
  """In the embeddings that the decoder reads, after those of the words."""
  prompt = asked(photos, 'w5 <image> w6 <image> w9', ('b.png', 'a.png'))
  with mock.patch.object(image_engine.stopped, 'generate') as generate:
    generate.return_value = ['']
    engine.generate([prompt])
  (request,) = generate.call_args.args[3]
  embed_VD = np.asarray(engine.weights['decoder']['embed_VD'])
  image = [0] * EACH
  assert request.ids == (5, *image, 6, *image, 9)
  words = [0, EACH + 1, 2 * EACH + 2]
  np.testing.assert_array_equal(request.x_LD[words], embed_VD[[5, 6, 9]])
  for name, begin in (('b.png', 1), ('a.png', EACH + 2)):
    pixels = np.asarray(Image.open(photos / name)) / 255
    image_HWC = (pixels - CLIP_MEAN) / np.array(CLIP_STD)
    wanted = engine.sight.encode(
      engine.weights, image_HWC[None].astype(np.float32)
    )
    found = request.x_LD[begin : begin + EACH]
    np.testing.assert_allclose(found, wanted[0], atol=1e-5)


@pytest.mark.soak
def test_answers_are_those_of_whole_passes_over_the_images(engine, photos):
  image = [IMAGE] * EACH
  names = ('b.png', 'a.png'), ('a.png',)
  first = greedy(engine, photos, names[0], [5, *image, 6, *image, 9], 3)
  second = greedy(engine, photos, names[1], [*image, 3], 3)
  assert first != second
  assert len({*second}) > 1
  prompts = [
    asked(photos, 'w5 <image> w6 <image> w9', names[0], max_tokens=3),
    asked(photos, '<image> w3', names[1], max_tokens=3, stops=(second[-1],)),
  ]
  cut = ' '.join(second).split(second[-1])[0]
  assert engine.generate(prompts) == [' '.join(first), cut]


def test_images_of_a_text_without_a_place_stand_before_it(engine, photos):
  prompt = asked(photos, 'w5 w6', ('a.png', 'b.png'))
  assert engine.ids(prompt) == [IMAGE] * 2 * EACH + [5, 6]
  assert engine.ids(asked(photos, 'w5 w6')) == [5, 6]


@pytest.mark.parametrize(
  ('template', 'ids'),
  [
    (PARTS, [7, *[IMAGE] * EACH, 5, 6, 8]),
    (WHOLE, [7, 5, *[IMAGE] * EACH, 6, 8]),
  ],
)
def test_a_chat_template_of_parts_or_of_whole_texts(
  template, ids, engine, photos
):
  prompt = asked(photos, 'w5 <image> w6', ('a.png',))
  assert templated(engine, template).ids(prompt) == ids


@pytest.mark.parametrize(
  ('text', 'names', 'template', 'message'),
  [
    ('w5 <image>', (), None, "'w5 <image>'... has 1 <image> and 0 images"),
    ('<image>', ('a.png', 'b.png'), None, '1 <image> and 2 images'),
    ('w5', ('a.png',), "{{ 'w1' }}", 'the template does not write the prompt'),
    ('w5', ('c.png',), None, "row 1: image 'c.png' is not there"),
    ('w5', ('../a.png',), None, 'leads out of the folder'),
    ('w5 ' * 65, (), None, 'has 65 tokens with those of its images'),
  ],
)
def test_what_cannot_be_asked_is_one_line(
  text, names, template, message, engine, photos
):
  own = templated(engine, template) if template else engine
  with pytest.raises(errors.InputError, match=re.escape(message)) as e:
    own.generate([asked(photos, text, names)])
  assert '\n' not in str(e.value)


def test_a_tokenizer_without_the_image_token_is_one_line(tmp_path):
  path = helper.speaking(tmp_path / 'hf')
  config = (path / 'config.json').read_text()
  other = config.replace('"image_token_index": 59', '"image_token_index": 58')
  (path / 'config.json').write_text(other)
  with pytest.raises(errors.InputError, match=r'ids \[59\].*is 58: it is the'):
    image_engine.open_folder(str(path), helper.mesh())
  (path / 'tokenizer.json').unlink()
  with pytest.raises(errors.InputError, match='The folder has no tokenizer'):
    image_engine.open_folder(str(path), helper.mesh())


def test_cells_of_rows_are_bytes_or_paths(photos):
  data = (photos / 'a.png').read_bytes()
  config = images.ReadConfig()
  wanted = np.asarray(Image.open(photos / 'a.png'))
  for cell in ({'bytes': data, 'path': 'x.png'}, {'path': 'a.png'}, 'a.png'):
    picture = of_cell(cell, photos, 'row 1')
    np.testing.assert_array_equal(picture.pixels(config), wanted)
  assert of_cell(None, photos, 'row 1') is None
  for wrong in (3, {'bytes': None}, []):
    with pytest.raises(errors.InputError, match='row 1 is no image'):
      of_cell(wrong, photos, 'row 1')
  damaged = of_cell({'bytes': data[:-40]}, photos, 'row 1')
  with pytest.raises(errors.InputError, match='image of row 1 is damaged'):
    damaged.pixels(config)
