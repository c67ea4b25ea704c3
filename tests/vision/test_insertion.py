"""Image features stand in a decoder's input where image tokens are."""

import jax
import numpy as np
import pytest
from helpers import tiny

from moejax.core import errors
from moejax.vision import insertion

IMAGE = 90  # beyond the vocabulary of 64, as in LLaVA
# Two packed documents and padding, two images in the first, one in the second;
# and a row without any image.
TOKEN_BL = np.array([
  [1, IMAGE, IMAGE, 2, IMAGE, 3, IMAGE, IMAGE, 4, 0],
  [5, 6, 7, 8, 9, 1, 2, 3, 4, 5],
])
SEGMENT_BL = np.array([[1] * 5 + [2] * 4 + [0], [1] * 10])
POSITION_BL = np.array([[0, 1, 2, 3, 4, 0, 1, 2, 3, 0], [*range(10)]])
RNG = np.random.default_rng(0)
FEATURE_BID = RNG.normal(size=(2, 6, 16)).astype(np.float32)


def test_features_take_the_places_of_image_tokens_in_order():
  x_BLD = -np.arange(5, dtype=np.float32)[None, :, None].repeat(2, 0)
  feature_BID = np.float32([[[10], [11], [12]], [[20], [21], [22]]])
  image_BL = np.array([[0, 1, 1, 0, 1], [0, 0, 0, 0, 0]], bool)
  found = insertion.insert(x_BLD, image_BL, feature_BID)
  wanted = [[0, 10, 11, -3, 12], [0, -1, -2, -3, -4]]
  np.testing.assert_array_equal(found[..., 0], wanted)


@pytest.fixture(scope='module')
def run():
  """The decoder's hidden states, of features or of the tokens alone."""
  model = tiny.model()
  weights = tiny.weights(model)

  @jax.jit
  def with_images(weights, token_BL, feature_BID):
    decoder = model.bind(weights)
    text_BL = insertion.text_tokens(token_BL, IMAGE)
    x_BLD = insertion.insert(
      decoder.embed(text_BL), token_BL == IMAGE, feature_BID
    )
    tokens = decoder.token_context(text_BL, SEGMENT_BL, POSITION_BL)
    return decoder.of_embeddings(x_BLD, tokens).x_BLD

  @jax.jit
  def of_text(weights, token_BL):
    return model.bind(weights)(token_BL, SEGMENT_BL, POSITION_BL).x_BLD

  return weights, with_images, of_text


def test_an_image_is_read_as_words_with_the_same_embeddings(run):
  """The features are put into the table of embeddings, under ids of words."""
  weights, with_images, of_text = run
  words = 40 + np.arange(5)
  embed_VD = np.array(weights['embed_VD'])
  embed_VD[words] = FEATURE_BID[0, :5]
  token_BL = TOKEN_BL.copy()
  token_BL[TOKEN_BL == IMAGE] = words
  wanted = of_text({**weights, 'embed_VD': embed_VD}, token_BL)
  found = with_images(weights, TOKEN_BL, FEATURE_BID)
  np.testing.assert_allclose(found, wanted, atol=1e-5)
  # The second row has no image.
  text_B = of_text(weights, np.where(TOKEN_BL == IMAGE, 0, TOKEN_BL))
  np.testing.assert_allclose(found[1], text_B[1], atol=1e-5)
  assert np.abs(found[0] - text_B[0]).max() > 0.1


def test_an_image_is_seen_in_its_own_document_alone(run):
  weights, with_images, _ = run
  before = with_images(weights, TOKEN_BL, FEATURE_BID)
  other = FEATURE_BID.copy()
  other[0, 1] += 1.0  # of the second token of the first image
  after = np.asarray(with_images(weights, TOKEN_BL, other))
  changed = np.abs(after - before).max(axis=-1) > 1e-5
  wanted = np.zeros((2, 10), bool)
  wanted[0, 2:5] = True
  np.testing.assert_array_equal(changed, wanted)


def test_tokens_without_features_and_features_without_tokens_are_one_line():
  insertion.check_counts(TOKEN_BL, IMAGE, np.array([5, 0]))
  with pytest.raises(errors.InputError, match='row 0 has 5 image tokens .* 4'):
    insertion.check_counts(TOKEN_BL, IMAGE, np.array([4, 0]))
  with pytest.raises(errors.InputError, match='row 1 has 0 image tokens .* 3'):
    insertion.check_counts(TOKEN_BL, IMAGE, np.array([5, 3]))
