"""Sight: prompts of images and text as a model reads them.

  ids = sight.ids('What is this? <image>', start=())
  x_LD = sight.read(weights, ids, [picture])

Each `<image>` of a text becomes as many image tokens as an image has features.
Among the ids it is `model.image_token`, which may be beyond the vocabulary.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from moejax.core import errors
from moejax.data.chat import messages as messages_lib
from moejax.data.chat import templates
from moejax.data.vocab import Vocab
from moejax.evals import generate
from moejax.evals.picture import Picture
from moejax.model.build import Model
from moejax.parallel import mesh as meshes
from moejax.vision.images import ReadConfig
from moejax.vision.preprocessing import Preprocessing, preprocess

MARK = messages_lib.IMAGE  # of an image in a text
# Rows of embeddings are padded to a multiple of it: few shapes are compiled.
_LENGTHS = 64


class Seeing(Protocol):
  """A model that reads images, such as `llava_model.Llava`.

  Attributes:
    decoder: its decoder.
    image_token: id that stands for a feature.
    text_id: id that routers read in its place.
    num_features: features of an image, and so its image tokens.
    feature_width: width of what `features` gives.
    image_shape: rows and columns of the images that it reads.
  """

  @property
  def decoder(self) -> Model: ...
  @property
  def image_token(self) -> int: ...
  @property
  def text_id(self) -> int: ...
  @property
  def num_features(self) -> int: ...
  @property
  def feature_width(self) -> int: ...
  @property
  def image_shape(self) -> tuple[int, int]: ...

  def of_decoder(self, weights: Any) -> Any:
    """The weights of the decoder."""

  def features(self, weights: Any, image_NHWC: jax.Array) -> jax.Array:
    """Features [N, P, feature_width] of images."""

  def embeddings(
    self, weights: Any, token_BL: jax.Array, feature_BID: jax.Array
  ) -> jax.Array:
    """x_BLD of rows, whose features stand one image after the other."""


@dataclasses.dataclass(frozen=True)
class Sight:
  """How prompts with images are read.

  Attributes:
    model: the structure of the model.
    vocab: its vocabulary.
    steps: how images are prepared.
    reading: how images are read.
    token: what the tokenizer reads in place of `<image>`.
    parts_first: whether a chat template gets messages as lists of parts, where
      it takes them as texts too.
  """

  model: Seeing
  vocab: Vocab
  steps: Preprocessing
  reading: ReadConfig = ReadConfig()
  token: str = MARK
  parts_first: bool = True

  def ids(self, text: str, start: Sequence[int]) -> list[int]:
    """The ids of a text, with image tokens for each `<image>`.

    Args:
      text: the text.
      start: ids that it begins with.
    """
    pieces = text.split(MARK)
    spans, at = [], 0
    for piece in pieces[:-1]:
      at += len(piece)
      spans.append((at, at + len(self.token)))
      at += len(self.token)
    whole = self.token.join(pieces)
    ((ids, places),) = self.vocab.encode_spans([whole], [spans])
    found: list[int] = []
    at = 0
    for begin, end in places:
      found += ids[at:begin]
      found += [self.model.image_token] * self.model.num_features
      at = end
    return generate.begun([*found, *ids[at:]], start)

  def marked(self, text: str, count: int) -> str:
    """A text with `<image>` for each image, which may stand before it.

    Raises:
      InputError: it has another number of `<image>`.
    """
    if MARK not in text:
      text = f'{MARK}\n' * count + text
    if text.count(MARK) != count:
      raise errors.InputError(
        f'the prompt {text[:40]!r}... has {text.count(MARK)} {MARK} and '
        f'{count} images; give each image one place'
      )
    return text

  def rendered(
    self, template: templates.Template, messages: Sequence[dict[str, Any]]
  ) -> str:
    """The text of a chat whose next message is the model's.

    Templates of models with images read messages of parts; others read texts.

    Raises:
      InputError: the template does not write the messages.
    """
    wanted = sum(message['content'].count(MARK) for message in messages)
    forms = [_of_texts, _of_parts]
    if wanted and self.parts_first:
      forms.reverse()
    problem: Exception | None = None
    for form in forms:
      asked = [form(message) for message in messages]
      try:
        made = template.render(asked, add_generation_prompt=True).text
      except messages_lib.ProblemError as e:
        problem = e
        continue
      if made.count(MARK) == wanted and all(
        _last(message).strip() in made for message in messages
      ):
        return made
    raise errors.InputError(
      f'{template.place} does not write the prompt with its {MARK}'
      f'{f" ({problem})" if problem else ""}; leave the template out'
    )

  def text(self, ids: Sequence[int]) -> list[int]:
    """The ids with one of the vocabulary in place of image tokens."""
    model = self.model
    return [model.text_id if i == model.image_token else i for i in ids]

  def read(
    self, weights: Any, ids: Sequence[int], pictures: Sequence[Picture]
  ) -> np.ndarray:
    """The embeddings x_LD of a prompt.

    Args:
      weights: of the model.
      ids: of `ids`.
      pictures: the images, in their order in the text.

    Raises:
      InputError: an image cannot be read.
    """
    padded = -(-len(ids) // _LENGTHS) * _LENGTHS
    # One row for each shard of a mesh; all are equal.
    rows = meshes.batch_size(self.model.decoder.mesh)
    token_BL = np.zeros((rows, padded), np.int32)
    token_BL[:, : len(ids)] = ids
    feature_1ID = self._features(weights, pictures)
    x_BLD = self._embed(weights, token_BL, np.repeat(feature_1ID, rows, 0))
    return np.asarray(x_BLD)[0, : len(ids)]

  def image(self, picture: Picture) -> np.ndarray:
    """A prepared image, float32 [h, w, 3].

    Raises:
      InputError: it cannot be read, or the model reads images of another size.
    """
    image_HWC = preprocess(picture.pixels(self.reading), self.steps)
    if image_HWC.shape[:2] != self.model.image_shape:
      rows, columns = image_HWC.shape[:2]
      height, width = self.model.image_shape
      raise errors.InputError(
        f'{picture.where}: the image processor of the model makes images of '
        f'{rows} x {columns} pixels, and its encoder reads {height} x {width}; '
        'correct preprocessor_config.json'
      )
    return image_HWC

  def _features(self, weights: Any, pictures: Sequence[Picture]) -> np.ndarray:
    """feature_1ID of all images of one prompt; zeros without an image."""
    shape = self.model.num_features, self.model.feature_width
    found = [np.zeros(shape, np.float32)] if not pictures else []
    for picture in pictures:
      rows = meshes.batch_size(self.model.decoder.mesh)
      image_NHWC = np.repeat(self.image(picture)[None], rows, 0)
      found.append(np.asarray(self.encode(weights, image_NHWC)[0]))
    return np.concatenate(found)[None]

  @functools.cached_property
  def encode(self) -> Callable[..., jax.Array]:
    """`model.features`, compiled."""
    return jax.jit(self.model.features)

  @functools.cached_property
  def _embed(self) -> Callable[..., jax.Array]:
    return jax.jit(self.model.embeddings)


def _of_texts(message: dict[str, Any]) -> dict[str, Any]:
  return message


def _of_parts(message: dict[str, Any]) -> dict[str, Any]:
  """A message whose content is a list of parts."""
  parts: list[dict[str, str]] = []
  for number, piece in enumerate(re.split(f'{MARK}\n?', message['content'])):
    parts += [{'type': 'image'}] if number else []
    parts += [{'type': 'text', 'text': piece}] if piece else []
  return {**message, 'content': parts}


def _last(message: dict[str, Any]) -> str:
  """What stands behind the last image of a message."""
  return message['content'].replace(f'{MARK}\n', MARK).split(MARK)[-1]
