"""What a run trains on."""

import dataclasses

from moejax.core import config, errors
from moejax.data import files as files_lib
from moejax.data import mixtures
from moejax.data import vocab as vocabs


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """The text, how it is read, and how long a row is.

  Attributes:
    mixture: a name in MIXTURES; 'synthetic' needs no text.
    files: own text files instead of the mixture: a file, a folder or a glob of
      .txt, .jsonl, .jsonl.gz or .parquet; several are joined by commas.
    validation_files: the same for validation; '' draws it from `files`.
    validation_fraction: how much of `files` that is.
    text_field: where the text is in JSON lines and parquet files.
    bad_lines: 'stop' or 'skip' at lines of `files` that are no documents.
    vocab: the tokenizer.
    sequence_length: L, the tokens of a row.
    max_documents: use only so many of each split of each task; 0 is all.
    cache_dir: where packed rows are kept; '' is $MOEJAX_CACHE or, without it,
      ~/.cache/moejax.
  """

  mixture: str = config.named(mixtures.MIXTURES, 'minipile')
  files: str = ''
  validation_files: str = ''
  validation_fraction: float = 0.05
  text_field: str = 'text'
  bad_lines: str = config.named(files_lib.BAD_LINES, 'stop')
  vocab: vocabs.Vocab = config.choice(vocabs.VOCABS, vocabs.SentencePiece())
  sequence_length: int = 256
  max_documents: int = 0
  cache_dir: str = ''

  def __post_init__(self):
    if self.sequence_length < 2:
      raise errors.InputError(
        f'data.sequence_length={self.sequence_length} must be 2 or more'
      )
    if not 0 < self.validation_fraction < 1:  # nor is nan
      raise errors.InputError(
        f'data.validation_fraction={self.validation_fraction} must be between '
        '0 and 1'
      )
    if self.max_documents < 0:
      raise errors.InputError(
        f'data.max_documents={self.max_documents} must be 0 (all) or more'
      )
    if '://' in self.cache_dir:
      raise errors.InputError(
        f'data.cache_dir={self.cache_dir!r}: rows are memory-mapped, so they '
        'must be on a local or mounted disk'
      )

  def check(self) -> None:
    """Raises InputError if keys do not fit together.

    That is for the whole config: until the last flag is read, a key may wait
    for another.
    """
    if self.validation_files and not self.files:
      raise errors.InputError(
        f'data.validation_files={self.validation_files!r} goes with '
        'data.files; a mixture has its own validation'
      )
