"""The config of the data: which text, and how it becomes rows."""

import dataclasses

from moejax.core import errors, fields, resume
from moejax.data import files as files_lib
from moejax.data import mixtures, packings, stepped
from moejax.data import sources as sources_lib
from moejax.data import vocab as vocabs
from moejax.data.chat import Chat
from moejax.data.images import Images
from moejax.data.steps import STEPS, Step


@dataclasses.dataclass(frozen=True)
class DataConfig(fields.Checked):
  """The text, the tokenizer, and the length of a row.

  Attributes:
    mixture: a name in MIXTURES; 'synthetic' needs no text.
    files: the user's own text files, in place of the mixture: files, folders or
      globs, joined by commas; docs/data.md has the rule and the kinds.
    conversations: files of conversations for chat tuning, in place of the
      mixture; docs/chat.md has the schemas.
    chat: their template, and which answers are targets.
    images: the images of conversations; docs/vision.md.
    validation_files: the same for validation; '' takes a share of `files`.
    validation_fraction: that share.
    text_field: the field of JSON objects, or the column of parquet files, that
      holds the text.
    bad_lines: 'stop' or 'skip' at a bad document of `files`: a row, or the
      whole of a .txt file.
    sources: the user's own mixture, in place of `mixture`: several texts by
      names that the user chooses.
    temperature: mixes the sources by their size n, as n ** (1 / temperature)
      times their rates; none: by their rates alone.
    steps: what removes documents before the text is packed, by name.
    step_order: names of the steps in the order in which they run; empty means
      the order of STEPS.
    vocab: the tokenizer.
    sequence_length: L, the tokens of a row.
    packing: how documents become rows; best_fit cuts fewer of them, and is
      always that of conversations.
    max_documents: limit on the documents of each split of each task; 0 means
      no limit.
    cache_dir: the folder of packed rows; '' means $MOEJAX_CACHE or, if that is
      not set, ~/.cache/moejax.
  """

  mixture: str = fields.named(mixtures.MIXTURES, 'minipile')
  files: str = resume.key(resume.TEXT, '')
  conversations: str = resume.key(resume.TEXT, '')
  chat: Chat = resume.key(resume.TEXT, Chat())
  images: Images = Images()
  validation_files: str = resume.key(resume.TEXT, '')
  validation_fraction: float = resume.key(
    resume.TEXT, fields.number(0.05, above=0, below=1)
  )
  text_field: str = resume.key(resume.TEXT, 'text')
  bad_lines: str = resume.key(
    resume.TEXT, fields.named(files_lib.BAD_LINES, 'stop')
  )
  sources: tuple[sources_lib.Source, ...] = fields.keyed(sources_lib.Source)
  temperature: float | None = fields.number(
    None, above=0, note='none: by rates alone'
  )
  steps: tuple[Step, ...] = resume.key(resume.TEXT, fields.choices(STEPS))
  step_order: tuple[str, ...] = resume.key(resume.TEXT, ())
  vocab: vocabs.Vocab = fields.choice(vocabs.VOCABS, vocabs.SentencePiece())
  sequence_length: int = fields.number(256, at_least=2)
  packing: packings.Packing = resume.key(
    resume.TEXT, fields.choice(packings.PACKINGS, packings.Sequential())
  )
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

    It is called once all flags have been read. Until then one key may be set
    before another key that it needs.
    """
    if self.validation_files and not (self.files or self.conversations):
      raise errors.InputError(
        f'data.validation_files={self.validation_files!r} goes with '
        'data.files; a mixture has its own validation'
      )
    if self.files and self.conversations:
      raise errors.InputError(
        f'data.files={self.files!r} and data.conversations='
        f'{self.conversations!r}: give one of them; data.sources mixes both'
      )
    self.images.check()
    sources_lib.check(self.sources, self.temperature)
    named = {source.chat.template for source in self._conversing()}
    if len(named) > 1:
      raise errors.InputError(
        f'data.sources: their chat templates are {sorted(named)}, but a model '
        'has one: name the same one for all conversations'
      )
    stepped.in_order(self.steps, self.step_order)

  def chat_used(self) -> Chat | None:
    """Template and loss of the run's conversations; None without any."""
    if self.conversations:
      return self.chat
    return next((source.chat for source in self._conversing()), None)

  def _conversing(self) -> list[sources_lib.Source]:
    """The sources that have conversations."""
    return [source for source in self.sources if source.conversations]

  def check_used(self) -> None:
    """Raises InputError if a key is set that would be ignored.

    Only new configs are checked. A trained model stays usable, even if its
    config has such a key.
    """
    if self.text_field != type(self).text_field and not self.files:
      raise errors.InputError(
        f'data.text_field={self.text_field!r} is the field of files that hold '
        'several; set data.files, or leave data.text_field out'
      )
    own = 'conversations' if self.conversations else 'files'
    named = self.conversations or self.files
    if named and self.sources:
      raise errors.InputError(
        f'data.{own}={named!r} would take the place of data.sources: make '
        f'it one of the sources, data.sources.NAME.{own}'
      )
    if self.chat != Chat() and not self.conversations:
      raise errors.InputError(
        'data.chat is about data.conversations, and there are none: leave it '
        'out; a source has data.sources.NAME.chat'
      )
    if self.images.folder and self.chat_used() is None:
      raise errors.InputError(
        'data.images is about conversations, and there are none: set '
        'data.conversations, or leave data.images out'
      )
    if self.temperature is not None and (named or not self.sources):
      raise errors.InputError(
        f'data.temperature={self.temperature:g} mixes data.sources, and there '
        'are none: leave it out'
      )

  def check_held_out(self) -> None:
    """Raises InputError for a share to hold out beside files to hold out.

    A run that has begun keeps both keys, so only new ones are checked.
    """
    sources_lib.check_held_out(self, 'data')
    for source in self.sources:
      sources_lib.check_held_out(source, source.place)
