"""Conversations with images as token ids.

In the text of a conversation `<image>` stands for an image. Among the ids of a
row an image is N equal ids behind those of the vocabulary: image number m of
the store is the id `size + m`, without a loss. So rows with images are packed,
cut and kept like all rows, and a row says which images it has.

Example, N = 2, a vocabulary of 100 ids, image number 7:
  'See <image>!'  ->  [17, 107, 107, 23]
"""

import dataclasses
import functools
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from moejax.core import errors
from moejax.data import features
from moejax.data.chat import answers
from moejax.data.chat.messages import IMAGE, Conversation, ProblemError
from moejax.data.chat.tokens import ChatVocab, Encoded
from moejax.data.images.library import Library
from moejax.data.vocab import Vocab

Span = tuple[int, int]
# Characters that a token of a tokenizer could join with an image's token.
_AROUND = ('', '\n', ' ', 'a', '.', '>', '<')


@dataclasses.dataclass(frozen=True)
class ImageVocab:
  """A vocabulary that encodes conversations with images.

  Attributes:
    chat: the vocabulary of their text.
    library: the images of the text.
  """

  chat: ChatVocab
  library: Library

  masked = True

  def __getattr__(self, name: str) -> Any:
    if name.startswith('__') or name == 'chat':  # while unpickling
      raise AttributeError(name)
    return getattr(self.chat, name)

  @property
  def size(self) -> int:
    """Larger than all ids, those of images included."""
    return self.chat.size + len(self.library.store.numbers)

  @property
  def first_id(self) -> int:
    """The id that the model reads at the beginning of a conversation."""
    return self.chat.first_id

  def fingerprint(self) -> str:
    images = self.library.images
    kept = json.dumps([images.tokens, images.token])
    return f'{self.chat.fingerprint()}:{kept}:{self.library.store.digest}'

  @functools.cached_property
  def image_id(self) -> int:
    """An id of the vocabulary that stands for images where rows are shown.

    Raises:
      InputError: the tokenizer joins the text of an image with its
        surroundings.
    """
    return token_id(self.chat.vocab, self.library.images.token)

  def is_image(self, target_NL: np.ndarray) -> np.ndarray:
    """Whether stored targets are image tokens."""
    return target_NL < -self.chat.size

  def shown(self, rows: features.Rows) -> features.Rows:
    """Rows with one id of the vocabulary for all image tokens."""
    target_NL, segment_NL = rows
    is_image_NL = self.is_image(target_NL)
    if is_image_NL.any():
      target_NL = np.where(is_image_NL, ~self.image_id, target_NL)
    return features.Rows(target_NL, segment_NL)

  def encode_conversations(
    self, conversations: Sequence[Conversation]
  ) -> Iterator[Encoded | ProblemError]:
    """As `ChatVocab.encode_conversations`, with image tokens."""
    for conversation in conversations:
      try:
        yield self._encoded(conversation)
      except ProblemError as e:
        yield e

  def _encoded(self, conversation: Conversation) -> Encoded | ProblemError:
    chat, numbers = self.chat, self.library.store.numbers
    for name in conversation.images:
      if name not in numbers:
        raise ProblemError(self.library.store.problems[name])
    marked = answers.find(chat.template, conversation, chat.chat.loss)
    text, spans, places = _renamed(marked, self.library.images.token)
    if len(places) != len(conversation.images):
      raise ProblemError(
        f'has {len(conversation.images)} images, and its text by the chat '
        f'template has {len(places)} {IMAGE}'
      )
    wanted = sorted([*spans, *places])
    ((ids, found),) = chat.vocab.encode_spans([text], [wanted])
    _ = self.image_id if places else 0
    at = dict(zip(wanted, found, strict=True))
    expanded, moved = _expanded(
      ids,
      [at[place] for place in places],
      [at[span] for span in spans],
      [
        [chat.size + numbers[name]] * self.library.images.tokens
        for name in conversation.images
      ],
    )
    return chat.fitted(marked, expanded, moved)


def token_id(vocab: Vocab, token: str) -> int:
  """An id that stands for images where rows are shown.

  Args:
    vocab: the tokenizer.
    token: the text that it reads in place of an image.

  Raises:
    InputError: the tokenizer joins the text with its surroundings.
  """
  found = set()
  for around in _AROUND:
    text = f'{around}{token}{around}'
    start = len(around)
    span = (start, start + len(token))
    ((ids, ((begin, end),)),) = vocab.encode_spans([text], [[span]])
    # The first piece of a text may have a mark of its beginning.
    found.add(tuple(ids[begin:end]) if around else tuple(ids))
    before = vocab.encode_spans([around], [[]])[0][0]
    if around and ids[:begin] != before:
      found.add(())
  with_mark = {ids for ids in found if ids}
  if () in found or len({ids[-1] for ids in with_mark}) != 1:
    raise errors.InputError(
      f'the tokenizer of data.vocab has no token {token!r} for images: set '
      'data.images.token to the text of a special token that no text has'
    )
  return next(iter(with_mark))[-1]


def _renamed(
  marked: answers.Marked, token: str
) -> tuple[str, list[Span], list[Span]]:
  """The text with another token for images.

  Returns:
    The text, the places of the answers in it, and those of the images.
  """
  kept = [span for span in marked.spans if span]
  begins, at = [], marked.text.find(IMAGE)
  while at >= 0:
    begins.append(at)
    at = marked.text.find(IMAGE, at + len(IMAGE))
  longer = len(token) - len(IMAGE)
  moved = lambda place: place + longer * sum(at < place for at in begins)
  spans = [(moved(start), moved(end)) for start, end in kept]
  places = [(moved(at), moved(at) + len(token)) for at in begins]
  return marked.text.replace(IMAGE, token), spans, places


def _expanded(
  ids: Sequence[int],
  places: Sequence[Span],
  spans: Sequence[Span],
  images: Sequence[Sequence[int]],
) -> tuple[list[int], list[Span]]:
  """The ids with those of images at their places, and the spans among them.

  Example:
    ids [5, 9, 6, 7], places [(1, 2)], spans [(2, 4)], images [[107, 107]]
    [5, 107, 107, 6, 7], [(3, 5)]
  """
  result: list[int] = []
  at, moves = 0, []
  for (start, end), image in zip(places, images, strict=True):
    result += [*ids[at:start], *image]
    moves.append((end, len(image) - (end - start)))
    at = end
  result += ids[at:]
  moved = lambda place: place + sum(by for end, by in moves if end <= place)
  return result, [(moved(start), moved(end)) for start, end in spans]
