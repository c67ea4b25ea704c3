"""The copy of its tokenizer, and of Hugging Face files, in a workdir.

  WORKDIR/hf/         files of the folder that the run began with, if its
                      tokenizer is that of the run (convert/companions.py)
  WORKDIR/tokenizer/  the file of any other tokenizer, such as one's own

With the copy a workdir can be moved, and can generate and export when the
original is gone. The folder in `start` is needed until the first checkpoint.
"""

import dataclasses
import os
from collections.abc import Callable

from etils import epath

from moejax.convert import companions
from moejax.convert import folder as folders
from moejax.core import errors, files, terminal
from moejax.data import vocab_file
from moejax.data.vocab import Vocab
from moejax.train import checkpoint_folder

OWN = 'tokenizer'
# Of every workdir of a run.
CONFIG, CHECKPOINTS = 'config.json', 'checkpoints'


def keep(
  vocab: Vocab,
  workdir: epath.PathLike,
  start: str,
  note: Callable[[str], None] = lambda _: None,
) -> None:
  """Copies the tokenizer of a run, and files beside it, into its workdir.

  Args:
    vocab: the run's.
    workdir: the folder of the run; older copies in it are replaced.
    start: the folder or workdir that the run begins with; '' for none.
    note: is given a line if the tokenizer of `start` is another one.
  """
  workdir = epath.Path(workdir)
  copies = [workdir / name for name in (OWN, companions.NAME)]
  if has_begun(workdir) and any(place.is_dir() for place in copies):
    return
  path = getattr(vocab, 'path', '')
  if path and epath.Path(path).parent in copies:
    return  # the run reads the copy itself
  source = _source(start)
  theirs = None if source is None else companions.tokenizer_file(source)
  if source is not None and _is_of(vocab, theirs):
    originals = {name: source / name for name in companions.names(source)}
    companions.keep(originals, workdir / companions.NAME)
    return
  if theirs is not None:
    note(
      f'data.vocab is not the tokenizer of {start}, whose ids its weights '
      'know: neither that tokenizer nor its settings come along.'
    )
  if path:
    file = epath.Path(path).expanduser()
    companions.keep({file.name: file}, workdir / OWN)


def _source(start: str) -> epath.Path | None:
  """The folder with the Hugging Face files of `start`, if there is one."""
  if not start:
    return None
  kept = epath.Path(start) / companions.NAME
  if kept.is_dir():
    return kept
  if (epath.Path(start) / CHECKPOINTS).is_dir():
    return None  # a workdir that has none
  try:
    return epath.Path(folders.find(start))
  except errors.InputError:
    return None  # reading its weights says so, if they are needed


def _is_of(vocab: Vocab, file: epath.Path | None) -> bool:
  """Whether the tokenizer of a folder is the vocabulary; both may be none."""
  if getattr(vocab, 'shift', 0) != 0:
    return False
  path = getattr(vocab, 'path', None)
  if file is None or not path:
    return file is None and path is None and vocab.least_id == 0
  return vocab_file.read(path) == file.read_bytes()


def folder(
  vocab: Vocab, workdir: epath.PathLike, start: str = ''
) -> epath.Path | None:
  """The Hugging Face files that go with a run's vocabulary, if any.

  Args:
    vocab: the run's.
    workdir: its folder.
    start: the folder that the run began with, where older runs left them.

  Raises:
    InputError: a file of the workdir is damaged.
  """
  kept = epath.Path(workdir) / companions.NAME
  place: epath.Path | None = None
  if kept.is_dir():
    companions.check(kept)
    place = kept
  elif start and epath.Path(start).is_dir():  # nothing is fetched for this
    place = _source(start)
  if place is None:
    return None
  return place if _is_of(vocab, companions.tokenizer_file(place)) else None


def resolved(vocab: Vocab, workdir: epath.PathLike) -> Vocab:
  """The vocabulary of a run, from the copy in its workdir if there is one.

  Raises:
    InputError: the copy is damaged.
  """
  file = _copy(vocab, epath.Path(workdir))
  if file is None:
    return vocab
  companions.check(file.parent)
  return dataclasses.replace(vocab, path=os.fspath(file))


def adopted(vocab: Vocab, workdir: epath.PathLike) -> Vocab:
  """As `resolved`, for a run that goes on and may still name the original.

  Raises:
    InputError: the original is another tokenizer now.
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
  if not getattr(vocab, 'path', ''):
    return None
  own = workdir / OWN
  if own.is_dir():
    copies = [path for path in own.iterdir() if path.name != files.MANIFEST]
    if len(copies) == 1:
      return copies[0]
  place = workdir / companions.NAME
  return companions.tokenizer_file(place) if place.is_dir() else None
