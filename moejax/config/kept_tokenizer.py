"""A workdir's own copy of the run's tokenizer and of Hugging Face files.

  WORKDIR/hf/         files of the folder that the run began with, if the
                      tokenizer of that folder is the run's
                      (convert/companions.py)
  WORKDIR/tokenizer/  the file of any other tokenizer, such as the user's own
  WORKDIR/chat/       without WORKDIR/hf/: the chat template of the run's
                      conversations

With its copy a workdir can be moved, and its model can generate and be exported
when the original is gone. The folder in `start` is needed until the first
checkpoint.
"""

import dataclasses
import json
import os
from collections.abc import Callable

from etils import epath

from moejax.convert import companions, own_tokenizer
from moejax.convert import folder as folders
from moejax.core import errors, manifest, terminal
from moejax.data import vocab_file
from moejax.data.chat import Chat, templates
from moejax.data.chat.tokens import ChatVocab
from moejax.data.vocab import Vocab
from moejax.train import checkpoint_folder

OWN, CHAT = 'tokenizer', 'chat'
# Names in the workdir of every run.
CONFIG, CHECKPOINTS = 'config.json', 'checkpoints'


def keep(
  vocab: Vocab,
  workdir: epath.PathLike,
  start: str,
  note: Callable[[str], None] = lambda _: None,
  chat: Chat | None = None,
) -> None:
  """Copies the tokenizer of a run, and files beside it, into its workdir.

  A run that has a checkpoint keeps the copy that it has. The chat template of a
  run that is tuned with another one than its tokenizer came with takes that
  one's place, and the end of its turns is among the ids that end a text, so
  that an export has both.

  Args:
    vocab: vocabulary of the run.
    workdir: folder of the run; older copies in it are replaced.
    start: the folder or workdir that the run begins with; '' for none.
    note: is called with a warning if the tokenizer of `start` is not the
      run's.
    chat: template of the run's conversations; None without any.

  Raises:
    InputError: there are conversations, and the tokenizer of `start` is not the
      run's.
  """
  workdir = epath.Path(workdir)
  copies = [workdir / name for name in (OWN, CHAT, companions.NAME)]
  if has_begun(workdir) and any(place.is_dir() for place in copies):
    return
  path = getattr(vocab, 'path', '')
  if path and epath.Path(path).parent in copies:
    return  # the run reads the copy itself
  source = _source(start)
  tokenizer = None if source is None else companions.tokenizer_file(source)
  if source is not None and _is_tokenizer_of(vocab, tokenizer):
    originals: dict[str, epath.Path | bytes] = {
      name: source / name for name in companions.names(source)
    }
    if chat is not None:
      originals |= _of_chat(source, vocab, chat)
    companions.keep(originals, workdir / companions.NAME)
    return
  if tokenizer is not None:
    if chat is not None:
      raise errors.InputError(
        f'data.vocab is another tokenizer than that of {start}, with whose ids '
        'its weights were trained: leave out data.vocab to tune the model on '
        'conversations'
      )
    note(
      f'data.vocab is not the tokenizer of {start}, with whose ids its weights '
      'were trained: neither that tokenizer nor its settings are copied.'
    )
  if chat is not None:
    template = ChatVocab(vocab, chat).template
    tokens = json.dumps(dict(template.tokens), indent=2)
    named = {companions.TEMPLATE: template.text, companions.SETTINGS: tokens}
    contents = {name: text.encode() for name, text in named.items()}
    companions.keep(contents, workdir / CHAT)
  if path:
    file = epath.Path(path).expanduser()
    companions.keep({file.name: file}, workdir / OWN)


def chat_template(workdir: epath.PathLike) -> templates.Template | None:
  """The chat template that a run without Hugging Face files has kept.

  Raises:
    InputError: it is damaged.
  """
  place = epath.Path(workdir) / CHAT
  text = templates.of_folder(place)
  if text is None:
    return None
  companions.check(place)
  tokens = templates.special_tokens(place)
  return templates.Template(text, f'the chat template in {place}', tokens)


def with_chat(
  beside: companions.Companions, vocab: Vocab, workdir: epath.PathLike
) -> companions.Companions:
  """Companions with the chat template that a run has kept, if it has one.

  The token with which a turn ends is added to those that end a text.
  """
  kept = chat_template(workdir)
  if kept is None:
    return beside
  place = epath.Path(workdir) / CHAT / companions.TEMPLATE
  own = ChatVocab(vocab, Chat(), kept=kept)
  ((ids, _),) = vocab.encode_spans([own.turn_end], [[]])
  generation, end = beside.generation, beside.generation.get('eos_token_id')
  if len(ids) == 1 and ids[0] != end:
    ends = [*([] if end is None else [end]), *ids]
    generation = {**generation, 'eos_token_id': ends}
  files: own_tokenizer.Files = {**beside.files, companions.TEMPLATE: place}
  return dataclasses.replace(beside, files=files, generation=generation)


def _of_chat(
  source: epath.Path, vocab: Vocab, chat: Chat
) -> dict[str, epath.Path | bytes]:
  """The files that a run changes which is tuned on conversations.

  They are the template, if it is not that of the folder, and the generation
  settings, if the token with which a turn ends does not end a text in them.
  """
  changed: dict[str, epath.Path | bytes] = {}
  own = ChatVocab(vocab, chat)
  if chat.template:
    changed[companions.TEMPLATE] = templates.path(chat.template, own.key)
  ends = companions.end_ids(source, vocab)
  ((ids, _),) = vocab.encode_spans([own.turn_end], [[]])
  if len(ids) == 1 and ids[0] not in ends:
    settings = companions.of_folder(source, vocab).generation
    settings = {**settings, 'eos_token_id': [*ends, *ids]}
    changed[companions.GENERATION] = json.dumps(settings, indent=2).encode()
  return changed


def _source(start: str) -> epath.Path | None:
  """The folder with the Hugging Face files of `start`; None without one."""
  if not start:
    return None
  kept = epath.Path(start) / companions.NAME
  if kept.is_dir():
    return kept
  if (epath.Path(start) / CHECKPOINTS).is_dir():
    return None  # a workdir without Hugging Face files
  try:
    return epath.Path(folders.find(start))
  except errors.InputError:
    return None  # the same error is raised when its weights are needed


def _is_tokenizer_of(vocab: Vocab, file: epath.Path | None) -> bool:
  """Whether a vocabulary is that of a tokenizer file.

  A folder without a tokenizer (None) goes with a vocabulary that has no file
  and uses all ids from 0 on.
  """
  if getattr(vocab, 'shift', 0) != 0:
    return False
  path = getattr(vocab, 'path', None)
  if file is None or not path:
    return file is None and path is None and vocab.least_id == 0
  return vocab_file.read(path) == file.read_bytes()


def folder(
  vocab: Vocab, workdir: epath.PathLike, start: str = ''
) -> epath.Path | None:
  """The folder of the Hugging Face files that belong to a run's vocabulary.

  Args:
    vocab: vocabulary of the run.
    workdir: folder of the run.
    start: the folder that the run began with; runs of earlier versions have no
      copy of its files.

  Returns:
    The folder, or None if no such files belong to the vocabulary.

  Raises:
    InputError: a file of the workdir is damaged.
  """
  kept = epath.Path(workdir) / companions.NAME
  place: epath.Path | None = None
  if kept.is_dir():
    companions.check(kept)
    place = kept
  elif start and epath.Path(start).is_dir():  # nothing is fetched from the hub
    place = _source(start)
  if place is None:
    return None
  file = companions.tokenizer_file(place)
  return place if _is_tokenizer_of(vocab, file) else None


def resolved(vocab: Vocab, workdir: epath.PathLike) -> Vocab:
  """The vocabulary of a run, read from the copy in its workdir if it has one.

  Raises:
    InputError: the copy is damaged.
  """
  file = _copy(vocab, epath.Path(workdir))
  if file is None:
    return vocab
  companions.check(file.parent)
  return dataclasses.replace(vocab, path=os.fspath(file))


def adopted(vocab: Vocab, workdir: epath.PathLike) -> Vocab:
  """The vocabulary that a run goes on with; its config may name the original.

  Before the first checkpoint that is the original, if it exists; afterwards
  the copy in the workdir.

  Raises:
    InputError: the original is no longer the tokenizer that the run began
      with, or the copy is damaged.
  """
  kept = resolved(vocab, workdir)
  path = getattr(vocab, 'path', '')
  if kept is vocab or not epath.Path(path).expanduser().exists():
    return kept
  if not has_begun(epath.Path(workdir)):
    return vocab
  kept_path = getattr(kept, 'path', '')
  if vocab_file.read(path) != vocab_file.read(kept_path):
    raise errors.InputError(
      f'data.vocab.path={path!r} is another tokenizer than the run in '
      f'{workdir} began with; use another --workdir, or put it back (a copy is '
      f'{kept_path})'
    )
  return vocab


def has_begun(workdir: epath.Path) -> bool:
  """Whether a workdir has a checkpoint."""
  place = workdir / CHECKPOINTS
  return bool(checkpoint_folder.CheckpointFolder(place, terminal.say).steps())


def _copy(vocab: Vocab, workdir: epath.Path) -> epath.Path | None:
  """The tokenizer file in a workdir; None without one."""
  if not getattr(vocab, 'path', ''):
    return None
  own = workdir / OWN
  if own.is_dir():
    copies = [path for path in own.iterdir() if path.name != manifest.MANIFEST]
    if len(copies) == 1:
      return copies[0]
  place = workdir / companions.NAME
  return companions.tokenizer_file(place) if place.is_dir() else None
