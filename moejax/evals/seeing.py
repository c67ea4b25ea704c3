"""SeeingModel: the model of a run with `model.vision`, as prompts are read."""

import dataclasses

import jax
import jax.numpy as jnp

from moejax.core import errors
from moejax.data.images import Images
from moejax.data.images.vocab import token_id
from moejax.data.vocab import Vocab
from moejax.evals.sight import Sight
from moejax.model.build import Model, Weights
from moejax.vision.front_end import Encoder
from moejax.vision.inputs import RowImages


@dataclasses.dataclass(frozen=True, eq=False)
class SeeingModel:
  """A decoder with a front end, as `sight.Seeing`.

  Attributes:
    decoder: the model.
    text_id: id that routers read in place of image tokens, as in training.
    num_features: patches of an image.
    image_shape: rows and columns of prepared images.
  """

  decoder: Model
  text_id: int
  num_features: int
  image_shape: tuple[int, int]

  @property
  def image_token(self) -> int:
    """An id behind those of all texts."""
    return self.decoder.config.vocab_size

  @property
  def feature_width(self) -> int:
    """Width of the encoder's output."""
    vision = self.decoder.config.vision
    assert isinstance(vision, Encoder)
    return vision.feature_width

  def of_decoder(self, weights: Weights) -> Weights:
    """All weights: the front end is below them."""
    return weights

  def features(self, weights: Weights, image_NHWC: jax.Array) -> jax.Array:
    """The output [N, P, F] of the encoder."""
    front = self.decoder.bind(weights).vision
    assert front is not None
    return front.encode(image_NHWC[:, None])[:, 0]

  def embeddings(
    self, weights: Weights, token_BL: jax.Array, feature_BID: jax.Array
  ) -> jax.Array:
    """See `sight.Seeing`."""
    decoder = self.decoder.bind(weights)
    is_image_BL = token_BL == self.image_token
    text_BL = jnp.where(is_image_BL, self.text_id, token_BL)
    shape = (len(token_BL), -1, self.num_features, feature_BID.shape[-1])
    images = RowImages(
      None,
      feature_BID.reshape(shape),
      is_image_BL.sum(1) // self.num_features,
      is_image_BL,
    )
    assert decoder.vision is not None
    return decoder.vision(decoder.embed(text_BL), images)


def sight_of(model: Model, vocab: Vocab, images: Images) -> Sight | None:
  """How a model reads images; None if it reads text alone.

  Args:
    model: the model.
    vocab: its vocabulary.
    images: `data.images` of its run.

  Raises:
    InputError: the images do not fit the model.
  """
  vision = model.config.vision
  if not isinstance(vision, Encoder):
    return None
  if len(images.size) != 2:
    raise errors.InputError(
      f'data.images.prepare.size={images.prepare.size} keeps the ratio of each '
      'image, and the model reads images of one size: set '
      '--config.data.images.prepare.size, or .crop, to rows and columns'
    )
  vision.check_images(images.tokens, images.size)
  rows, columns = images.size
  seeing = SeeingModel(
    model, token_id(vocab, images.token), images.tokens, (rows, columns)
  )
  return Sight(
    seeing,
    vocab,
    images.prepare,
    images.read,
    images.token,
    parts_first=False,
  )
