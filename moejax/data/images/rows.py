"""ImageRows: packed rows with their images, and batches of them."""

import hashlib
from collections.abc import Sequence

import numpy as np

from moejax.data import cache, features
from moejax.data.images.vocab import ImageVocab
from moejax.vision import preprocessing
from moejax.vision.inputs import RowImages


class ImageRows(cache.RowCache):
  """A cache whose rows have images.

  Args:
    rows: the packed rows, in which ids behind those of the vocabulary are
      images, see `vocab`.
    vocab: the vocabulary that they were packed with.
  """

  def __init__(self, rows: cache.RowCache, vocab: ImageVocab):
    super().__init__(rows.path, rows.first_id)
    self.vocab, self.images = vocab, vocab.library.images
    self.store = vocab.library.store
    joined = f'{rows.contents}:{self.store.digest}'
    self.contents = hashlib.sha256(joined.encode()).hexdigest()

  @property
  def most(self) -> int:
    """I: the images that fit into a row."""
    return max(1, self.length // self.images.tokens)

  def rows(self, index_N: np.ndarray) -> features.Rows:
    """Rows with one id of the vocabulary for all image tokens."""
    return self.vocab.shown(super().rows(index_N))

  def row_images(
    self, index_N: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The images of rows, as the encoder or the projector reads them.

    Returns:
      float32 images or features [N, I, ...], how many of them each row has,
      int32 [N], and which targets are image tokens, bool [N, L].
    """
    target_NL, _ = super().rows(index_N)
    is_image_NL = self.vocab.is_image(target_NL)
    num_N = is_image_NL.sum(1) // self.images.tokens
    shape = self.store.array_M.shape[1:]
    array_NI = np.zeros((len(index_N), self.most, *shape), np.float32)
    for row, count in enumerate(num_N):
      # All tokens of an image have its number; the first of each is read.
      stored_X = target_NL[row][is_image_NL[row]][:: self.images.tokens]
      numbers = ~stored_X - self.vocab.chat.size
      array_NI[row, :count] = self._prepared(self.store.array_M[numbers])
    return array_NI, num_N.astype(np.int32), is_image_NL

  def _prepared(self, array_I: np.ndarray) -> np.ndarray:
    if self.images.features:
      return array_I
    return preprocessing.normalised(array_I, self.images.prepare)


def of(
  readers: Sequence[cache.RowReader],
  reader_B: np.ndarray,
  row_B: np.ndarray,
  segment_BL: np.ndarray,
) -> RowImages | None:
  """The images of the rows of a batch; None if no text has images.

  Args:
    readers: the rows of each text.
    reader_B: the text of each row of the batch.
    row_B: the number of the row in its text.
    segment_BL: segments of the batch, 0 in padding.
  """
  seeing = [n for n, r in enumerate(readers) if isinstance(r, ImageRows)]
  if not seeing:
    return None
  first = readers[seeing[0]]
  assert isinstance(first, ImageRows)
  shape = (first.most, *first.store.array_M.shape[1:])
  array_BI = np.zeros((len(row_B), *shape), np.float32)
  num_B = np.zeros(len(row_B), np.int32)
  is_image_BL = np.zeros(segment_BL.shape, bool)
  for number in seeing:
    reader, here_B = readers[number], reader_B == number
    assert isinstance(reader, ImageRows)
    found = reader.row_images(row_B[here_B])
    array_BI[here_B], num_B[here_B], is_image_BL[here_B] = found
  # What the model reads is the target before it.
  is_image_BL[:, 1:] = is_image_BL[:, :-1] & (
    segment_BL[:, 1:] == segment_BL[:, :-1]
  )
  is_image_BL[:, 0] = False
  image, feature = (
    (None, array_BI) if first.images.features else (array_BI, None)
  )
  return RowImages(image, feature, num_B, is_image_BL)
