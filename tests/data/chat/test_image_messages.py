"""Conversations that name images."""

import pytest

from moejax.data.chat import messages

IMAGES = {
  'image and no place': (['a.png'], ['What?'], 'has 1 images and 0 <image>'),
  'place and no image': ([], ['<image>'], 'has 0 images and 1 <image>'),
  'one too few': (['a.png'], ['<image><image>'], 'has 1 images and 2 <image>'),
  'in an answer': (['a.png'], ['What?', '<image>'], 'an answer has <image>'),
  'no path': ([7], ['<image>'], 'its image must be a path'),
  'a number': (7, ['<image>'], 'its image must be a path'),
  'an object': ({'path': 'a.png'}, ['<image>'], 'its image must be a path'),
}


def row(images, texts):
  texts = [*texts, 'Yes.'][: max(2, len(texts))]
  roles = ['human', 'gpt'] * len(texts)
  turns = [
    {'from': role, 'value': text}
    for role, text in zip(roles, texts, strict=False)
  ]
  return {'image': images, 'conversations': turns}


@pytest.mark.parametrize('name', IMAGES)
def test_images_and_their_places_belong_together(name):
  images, texts, problem = IMAGES[name]
  with pytest.raises(messages.ProblemError, match=problem):
    messages.parse('a:1', row(images, texts), images=True)


def test_one_image_or_several_are_named():
  one = messages.parse('a:1', row('a.png', ['<image>']), images=True)
  assert one.images == ('a.png',)
  both = row(['b', 'a'], ['<image> and <image>'])
  assert messages.parse('a:1', both, images=True).images == ('b', 'a')


def test_images_behind_the_last_answer_are_left_out():
  turns = row(['b', 'a'], ['<image>', 'Yes.', '<image>'])
  parsed = messages.parse('a:1', turns, images=True)
  assert parsed.images == ('b',)


def test_other_images_are_another_conversation():
  """Or all questions with one text would be held out together."""
  parsed = [
    messages.parse('a:1', row(name, ['<image>']), images=True)
    for name in ('a', 'b', 'a')
  ]
  sums = [conversation.sha256() for conversation in parsed]
  assert sums[0] == sums[2] != sums[1]
