"""The config of images: where they are, and how an encoder is to read them."""

import dataclasses

from moejax.core import errors, fields, resume
from moejax.vision.images import ReadConfig
from moejax.vision.preprocessing import Preprocessing


@dataclasses.dataclass(frozen=True)
class Prepare(Preprocessing):
  """The steps, whose numbers are counted when all keys are set."""

  def check_lengths(self, where: str = '') -> None:
    """Checks them only where their place is known, by `Images.check`."""
    if where:
      super().check_lengths(where)


@dataclasses.dataclass(frozen=True)
class Images(fields.Checked):
  """The images of conversations.

  Attributes:
    folder: the folder that the paths of images begin in; '' for conversations
      without images.
    tokens: N, image tokens of each image: the patches that the encoder sees.
    token: the text that the tokenizer reads in place of `<image>`; only its
      place counts. A tokenizer of Hugging Face must have it as one token.
    read: how files are read.
    prepare: how images are prepared for the encoder.
    features: a file of features, as `moejax encoder features` writes it, in
      place of the pixels of the images. The encoder must be frozen then.
  """

  folder: str = resume.key(resume.TEXT, '')
  tokens: int = resume.key(
    resume.TEXT, fields.number(196, at_least=1, at_most=2**16)
  )
  token: str = resume.key(resume.TEXT, '<image>')
  read: ReadConfig = resume.key(resume.TEXT, ReadConfig())
  prepare: Prepare = resume.key(resume.TEXT, Prepare())
  features: str = resume.key(resume.TEXT, '')

  @property
  def size(self) -> tuple[int, ...]:
    """Rows and columns of a prepared image."""
    return self.prepare.crop or self.prepare.size

  def check(self) -> None:
    """Raises InputError for images that would not all have one size."""
    self.prepare.check_lengths('data.images.prepare.')
    if self.folder and not self.features and len(self.size) != 2:
      raise errors.InputError(
        f'data.images.prepare.size={self.size} keeps the ratio of each image, '
        'but the images of a batch have one size: give rows and columns, or '
        'set data.images.prepare.crop'
      )
