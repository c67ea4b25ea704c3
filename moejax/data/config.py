"""What a run trains on."""

import dataclasses

from moejax.core import errors, fields, resume
from moejax.data import files as files_lib
from moejax.data import mixtures
from moejax.data import vocab as vocabs


@dataclasses.dataclass(frozen=True)
class DataConfig(fields.Checked):
  """The text, how it is read, and how long a row is.

  Attributes:
    mixture: a name in MIXTURES; 'synthetic' needs no text.
    files: own text files instead of the mixture: files, folders or globs,
      joined by commas; docs/data.md has the rule and the kinds.
    validation_files: the same for validation; '' draws it from `files`.
    validation_fraction: how much of `files` that is.
    text_field: where the text is in JSON lines and parquet files.
    bad_lines: 'stop' or 'skip' at what is no document in `files`: a row, or
      the whole of a .txt file.
    vocab: the tokenizer.
    sequence_length: L, the tokens of a row.
    max_documents: use only so many of each split of each task; 0 is all.
    cache_dir: where packed rows are kept; '' is $MOEJAX_CACHE or, without it,
      ~/.cache/moejax.
  """

  mixture: str = fields.named(mixtures.MIXTURES, 'minipile')
  files: str = resume.key(resume.TEXT, '')
  validation_files: str = resume.key(resume.TEXT, '')
  validation_fraction: float = resume.key(
    resume.TEXT, fields.number(0.05, above=0, below=1)
  )
  text_field: str = resume.key(resume.TEXT, 'text')
  bad_lines: str = resume.key(
    resume.TEXT, fields.named(files_lib.BAD_LINES, 'stop')
  )
  vocab: vocabs.Vocab = fields.choice(vocabs.VOCABS, vocabs.SentencePiece())
  sequence_length: int = fields.number(256, at_least=2)
  max_documents: int = resume.key(
    resume.TEXT, fields.number(0, at_least=0, note='0: all')
  )
  cache_dir: str = resume.key(resume.NOTHING, '')

  def __post_init__(self):
    super().__post_init__()
    if '://' in self.cache_dir:
      raise errors.InputError(
        f'cache_dir={self.cache_dir!r}: rows are memory-mapped, so they '
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
