"""Sources: the texts of the user's own mixture, `data.sources` of the config.

A source has a name that the user chose, one text, and the rate at which its
rows are mixed with those of the other sources. `data.files` and `data.mixture`
are mixtures of the same form: one source of files, and sources that are tasks.
"""

import copy
import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

from moejax.core import errors, fields, resume, table
from moejax.data import files as files_lib
from moejax.data import tasks
from moejax.data.chat import Chat
from moejax.data.chat import source as conversations_lib
from moejax.data.fill_in_middle import FillInMiddle, Rearranged

_MOST = 1e15  # tokens; no text is longer


@dataclasses.dataclass(frozen=True)
class Source(fields.Checked):
  """A text of a mixture, and how it is mixed.

  Exactly one of `files`, `tfds`, `huggingface`, `task` and `conversations` is
  set: the text.

  Attributes:
    name: name of the source, which is its node in the config.
    files: files, folders or globs, joined by commas, as in `data.files`.
    tfds: a name of TensorFlow Datasets, such as c4/en:3.1.0.
    huggingface: a repository of the Hugging Face hub, such as allenai/c4.
    task: a name in TASKS.
    conversations: files of conversations, as in `data.conversations`.
    rate: rows of this source, relative to the other sources; 0 only validates.
    tokens: tokens of this source in the whole run; they take the place of
      rates.
    max_epochs: how often each of its rows may be read at most.
    text_field: the field of JSON objects, or the column of a table, that holds
      the text.
    bad_lines: 'stop' or 'skip' at a bad document of `files`.
    validation_files: files for validation; '' takes a share of `files`.
    validation_fraction: that share.
    fill_in_middle: rearranges a share of the training documents.
    chat: template and loss of conversations.
    subset: the config of a repository of the hub; '' for its only one.
    folder: a folder of the repository, its `data_dir`; '' for all.
    split: the split of `tfds` or `huggingface` to train on.
    validation_split: the split to validate on; '' holds out the first
      `validation_documents` of `split`.
    validation_documents: see above.
  """

  name: str = fields.node_name()
  files: str = resume.key(resume.TEXT, '')
  tfds: str = resume.key(resume.TEXT, '')
  huggingface: str = resume.key(resume.TEXT, '')
  task: str = resume.key(resume.TEXT, '')
  conversations: str = resume.key(resume.TEXT, '')
  rate: float = fields.number(1.0, at_least=0)
  tokens: float = fields.number(
    0.0, at_least=0, at_most=_MOST, note='0: by rate'
  )
  max_epochs: float = resume.key(
    resume.NOTHING, fields.number(0.0, at_least=0, note='0: no limit')
  )
  text_field: str = resume.key(resume.TEXT, 'text')
  bad_lines: str = resume.key(
    resume.TEXT, fields.named(files_lib.BAD_LINES, 'stop')
  )
  validation_files: str = resume.key(resume.TEXT, '')
  validation_fraction: float = resume.key(
    resume.TEXT, fields.number(0.05, above=0, below=1)
  )
  fill_in_middle: FillInMiddle = resume.key(resume.TEXT, FillInMiddle())
  chat: Chat = resume.key(resume.TEXT, Chat())
  subset: str = resume.key(resume.TEXT, '')
  folder: str = resume.key(resume.TEXT, '')
  split: str = resume.key(resume.TEXT, 'train')
  validation_split: str = resume.key(resume.TEXT, '')
  validation_documents: int = resume.key(
    resume.TEXT, fields.number(10_000, at_least=1)
  )

  @property
  def place(self) -> str:
    """The dotted path of its node."""
    return f'data.sources.{self.name}'

  def kind(self) -> str:
    """The key that names the text, one of KINDS.

    Raises:
      InputError: none is set, or several are.
    """
    kinds = [key for key in KINDS if getattr(self, key)]
    if not kinds:
      raise errors.InputError(
        f'{self.place} names no text: set one of '
        f'{", ".join(f"{self.place}.{key}" for key in KINDS)}'
      )
    if len(kinds) > 1:
      pairs = ' and '.join(f'{key}={getattr(self, key)!r}' for key in kinds)
      raise errors.InputError(
        f'{self.place} names several texts, {pairs}: keep one, and give the '
        'other a source of its own'
      )
    return kinds[0]

  def check(self) -> None:
    """Raises InputError if its keys do not fit together."""
    kind = self.kind()
    used = KINDS[kind].keys
    for key in {k for other in KINDS.values() for k in other.keys} - {*used}:
      default = type(self).__dataclass_fields__[key].default
      if getattr(self, key) != default:
        raise errors.InputError(
          f'{self.place}.{key}={getattr(self, key)!r} has no effect on a '
          f'source of {kind}: leave it out'
          + (f'; {kind} has the keys {", ".join(used)}' if used else '')
        )
    if kind == 'task':
      table.lookup(f'{self.place}.task', tasks.TASKS, self.task)
    if self.tokens and self.rate != type(self).rate:
      raise errors.InputError(
        f'{self.place} has rate={self.rate:g} and tokens={self.tokens:g}: give '
        'one of them'
      )

  def text(self) -> Any:
    """The text, as `tasks.TASKS` has them."""
    text = KINDS[self.kind()].open(self)
    if not self.fill_in_middle.rate:
      return text
    place = f'{self.place}.fill_in_middle'
    if not text.has_text:
      raise errors.InputError(
        f'{place} rearranges text, and {text.name} is made-up rows: leave it '
        'out'
      )
    if self.conversations:
      raise errors.InputError(
        f'{place} rearranges text, and {self.place} has conversations: leave '
        'it out'
      )
    rearrange = functools.partial(
      Rearranged, config=self.fill_in_middle, place=place
    )
    return dataclasses.replace(text, rearrange=rearrange)


class SourceOfData(Source):
  """The text of `data.files` or `data.conversations`.

  Its keys are keys of `data` itself.
  """

  place = 'data'


@dataclasses.dataclass(frozen=True)
class Kind:
  """One way in which a source names its text.

  Attributes:
    open: from a source to its text.
    keys: the further keys of a source that the text depends on.
  """

  open: Callable[[Source], Any]
  keys: tuple[str, ...] = ()


def _files(source: Source) -> files_lib.Files:
  return files_lib.Files(
    source.files,
    validation=source.validation_files,
    text_field=source.text_field,
    bad_lines=source.bad_lines,
    fraction=source.validation_fraction,
    label=source.name,
    place=source.place,
  )


def _conversations(source: Source) -> conversations_lib.Conversations:
  return conversations_lib.Conversations(
    source.conversations,
    validation=source.validation_files,
    bad_lines=source.bad_lines,
    fraction=source.validation_fraction,
    label=source.name,
    place=source.place,
    key='conversations',
    chat=source.chat,
  )


def _tfds(source: Source) -> tasks.Tfds:
  return tasks.Tfds(
    'tfds',
    source.tfds,
    source.text_field,
    split=source.split,
    validation_split=source.validation_split,
    held_out=0 if source.validation_split else source.validation_documents,
    label=source.name,
  )


def _huggingface(source: Source) -> tasks.HuggingFace:
  return tasks.HuggingFace(
    'huggingface',
    source.huggingface,
    source.subset,
    source.text_field,
    held_out=0 if source.validation_split else source.validation_documents,
    split=source.split,
    validation_split=source.validation_split,
    folder=source.folder,
    label=source.name,
  )


def _task(source: Source) -> Any:
  """A text of its own, which looks for its files when it is first read."""
  return copy.copy(tasks.TASKS[source.task])


_SPLITS = ('text_field', 'split', 'validation_split', 'validation_documents')
KINDS: Mapping[str, Kind] = {
  'files': Kind(
    _files,
    ('text_field', 'bad_lines', 'validation_files', 'validation_fraction'),
  ),
  'tfds': Kind(_tfds, _SPLITS),
  'huggingface': Kind(_huggingface, ('subset', 'folder', *_SPLITS)),
  'task': Kind(_task),
  'conversations': Kind(
    _conversations,
    ('bad_lines', 'validation_files', 'validation_fraction', 'chat'),
  ),
}


def check_held_out(config: Any, place: str) -> None:
  """Raises InputError for a share to hold out where files are held out.

  Args:
    config: a Source, or the DataConfig, which has the same two keys.
    place: dotted path of its node.
  """
  default = Source.__dataclass_fields__['validation_fraction'].default
  if config.validation_files and config.validation_fraction != default:
    raise errors.InputError(
      f'{place}.validation_fraction={config.validation_fraction:g} holds out '
      f'no share beside {place}.validation_files: leave out one of them'
    )


def check(listed: tuple[Source, ...], temperature: float | None) -> None:
  """Raises InputError if the sources of a mixture do not fit together.

  Args:
    listed: the sources.
    temperature: `data.temperature`.
  """
  names: dict[str, str] = {}
  for source in listed:
    source.check()
    # Names of folders and metrics that differ in case alone are easily mixed up
    # and are one name on some file systems.
    if source.name.lower() in names:
      raise errors.InputError(
        'data.sources has two sources with one name, '
        f'{names[source.name.lower()]!r} and {source.name!r}: rename one'
      )
    names[source.name.lower()] = source.name
  trained = [source for source in listed if source.rate]
  if listed and not trained:
    raise errors.InputError(
      f'data.sources: the rates of {", ".join(s.name for s in listed)} sum to '
      'nothing; give one of them a rate above 0'
    )
  budgets = [source for source in trained if source.tokens]
  if budgets and len(budgets) < len(trained):
    other = next(s.name for s in trained if not s.tokens)
    raise errors.InputError(
      f'{budgets[0].place}.tokens={budgets[0].tokens:g} is a budget, and '
      f'{other} has none: set data.sources.{other}.tokens, or rates alone'
    )
  if budgets and temperature is not None:
    raise errors.InputError(
      f'data.temperature={temperature:g} has no effect on token budgets: leave '
      f'out one of them'
    )
