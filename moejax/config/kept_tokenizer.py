"""The tokenizer that a workdir keeps, and the Hugging Face files with it.

  WORKDIR/hf/         of the folder that its weights began with, if its
                      tokenizer is that of the run (convert/companions.py)
  WORKDIR/tokenizer/  the file of any other tokenizer, such as one's own

A run needs neither the folder nor the file that it began with, but for weights
before its first checkpoint: a workdir can be moved, and generates and exports.
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
  """Copies what the run in a new workdir needs of what it begins with.

  Args:
    vocab: the run's.
    workdir: its folder; older copies there are replaced.
    start: whose weights it begins with: a folder, a workdir, or ''.
    note: is given a line if the tokenizer of `start` is another one.
  """
  workdir = epath.Path(workdir)
  there = [workdir / name for name in (OWN, companions.NAME)]
  if has_begun(workdir) and any(place.is_dir() for place in there):
    return
  path = getattr(vocab, 'path', '')
  if path and epath.Path(path).parent in there:
    return  # the copy is all there is
  source = _source(start)
  theirs = None if source is None else companions.tokenizer_file(source)
  if source is not None and _is_of(vocab, theirs):
    found = {name: source / name for name in companions.names(source)}
    companions.keep(found, workdir / companions.NAME)
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
  """The folder that has the Hugging Face files of what a run begins with."""
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
    return None  # who reads its weights says so, if they are needed


def _is_of(vocab: Vocab, file: epath.Path | None) -> bool:
  """Whether a folder's tokenizer, or that it has none, is the vocabulary."""
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
    start: whose weights it began with; those of older runs are there alone.

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
  """The same for a run that goes on: its config may name the file still.

  Raises:
    InputError: there is another tokenizer in that file now.
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
  """Whether there is a checkpoint; before the first one all may change."""
  place = workdir / CHECKPOINTS
  return bool(checkpoint_folder.CheckpointFolder(place, terminal.say).steps())


def _copy(vocab: Vocab, workdir: epath.Path) -> epath.Path | None:
  if not getattr(vocab, 'path', ''):
    return None
  own = workdir / OWN
  if own.is_dir():
    found = [path for path in own.iterdir() if path.name != files.MANIFEST]
    if len(found) == 1:
      return found[0]
  place = workdir / companions.NAME
  return companions.tokenizer_file(place) if place.is_dir() else None
