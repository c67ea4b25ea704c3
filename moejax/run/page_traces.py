"""What a workdir's traces give to its page: measures, and tokens with text."""

import dataclasses
import functools
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from moejax.analysis import published
from moejax.analysis.trace import Trace
from moejax.analysis.trace_file import TraceFile
from moejax.core import errors
from moejax.data.images import vocab as image_vocab
from moejax.data.vocab import Vocab
from moejax.page.data import Picture
from moejax.run import analysing, restore, trace_files
from moejax.vision.front_end import Encoder

TOKENS = 2_500  # of each domain, of which the page may show text
NO_TEXT = '·'  # shown for a token that has no text of its own
Note = Callable[[str], None]


def read(
  folder: epath.Path,
  note: Note,
  *,
  names: tuple[str, ...] | None = None,
  writes: bool = False,
) -> dict[str, Any]:
  """Fields of `PageData` that are made of traces; none without a trace.

  They are computed once for the same files: a page that is watched is made anew
  whenever another file of the workdir changes.

  Args:
    folder: the workdir.
    note: is called with a line before each measure that is computed.
    names: names of the measures that are needed, without tokens and texts; None
      for all, with these.
    writes: whether rows of measures are kept in the workdir.

  Raises:
    InputError: the traces are of several texts, tokenizers or models.
  """
  place = pathlib.Path(os.fspath(folder)) / trace_files.FOLDER
  stamps = tuple(
    (path, path.stat().st_size, path.stat().st_mtime_ns)
    for path in sorted(place.glob('*.parquet'))
  )
  return _read(folder, stamps, note, names, writes) if stamps else {}


@functools.lru_cache(maxsize=8)
def _read(
  folder: epath.Path,
  stamps: tuple[tuple[pathlib.Path, int, int], ...],
  note: Note,
  names: tuple[str, ...] | None,
  writes: bool,
) -> dict[str, Any]:
  """The fields; `stamps` are path, bytes and time of each trace."""
  measures = analysing.measured(
    os.fspath(folder), note, names=names, writes=writes
  )
  if names is not None:
    return {'measures': measures, 'published': published.curves()}
  newest = TraceFile(stamps[-1][0])
  trace = beginnings(newest)
  vocab = vocab_of(folder, newest.header.tokenizer)
  known = [] if vocab is None else texts(vocab, trace)
  pictures = [] if vocab is None else pictures_of(folder, vocab, trace)
  for picture in pictures:
    known[picture.begin : picture.end] = patches(picture)
  return {
    'measures': measures,
    'published': published.curves(),
    'trace': trace,
    'texts': known,
    'pictures': pictures,
    'words': {} if vocab is None else words(vocab, listed(measures)),
  }


def beginnings(file: TraceFile) -> Trace:
  """The first TOKENS tokens of each domain, read without the rest."""
  kept: list[Trace] = []
  have = np.zeros(len(file.header.domains), np.int64)
  for batch in file.batches():
    for domain in np.unique(batch.domain_T):
      place = np.flatnonzero(batch.domain_T == domain)
      place = place[: TOKENS - have[domain]]
      if len(place):
        kept.append(batch.only(place))
        have[domain] += len(place)
    if (have >= TOKENS).all():
      break
  first = kept[0]
  arrays: dict[str, Any] = {
    field.name: np.concatenate([getattr(part, field.name) for part in kept])
    for field in dataclasses.fields(first)
    if isinstance(getattr(first, field.name), np.ndarray)
  }
  return dataclasses.replace(first, **arrays)


def vocab_of(folder: epath.Path, tokenizer: str) -> Vocab | None:
  """The vocabulary of a run, if it can be read and is that of a trace.

  Args:
    folder: the workdir.
    tokenizer: fingerprint of the vocabulary of the trace; of another one, ids
      would be shown as the wrong text.
  """
  try:
    vocab = restore.run_of(os.fspath(folder)).data.vocab
    return vocab if vocab.fingerprint() == tokenizer else None
  except errors.InputError:
    return None


def pictures_of(
  folder: epath.Path, vocab: Vocab, trace: Trace
) -> list[Picture]:
  """The images among the tokens of a trace; none for a model of text alone.

  All tokens of an image have one id, as many as the image has patches.
  """
  run = restore.run_of(os.fspath(folder))
  images, vision = run.data.images, run.model.vision
  if not images.folder or not isinstance(vision, Encoder):
    return []
  number = images.tokens
  columns = math.isqrt(number)
  if images.prepare.size and not images.features:
    columns = images.prepare.size[1] // vision.encoder.patch_size
  own_T = trace.token_T == image_vocab.token_id(vocab, images.token)
  found, place = list[Picture](), 0
  while place + number <= len(own_T):
    here = slice(place, place + number)
    whole = own_T[here].all() and len({*trace.document_T[here].tolist()}) == 1
    if whole:
      found.append(Picture(place, place + number, columns))
    place += number if whole else 1
  return found


def patches(picture: Picture) -> list[str]:
  """What the tokens of an image are called: row and column, from 1."""
  places = (
    divmod(n, picture.columns) for n in range(picture.end - picture.begin)
  )
  return [f'patch {row + 1},{column + 1}' for row, column in places]


def texts(vocab: Vocab, trace: Trace) -> list[str]:
  """The text of each token behind the token before it.

  Spaces and parts of characters have their text only behind another token. One
  that has none by itself is `NO_TEXT`.
  """
  ids = trace.token_T.tolist()
  alone: dict[int, str] = {}
  shown = []
  for i, token in enumerate(ids):
    if i and trace.document_T[i] == trace.document_T[i - 1]:
      before = ids[i - 1]
      if before not in alone:
        alone[before] = vocab.decode([before])
      shown.append(_behind(alone[before], vocab.decode([before, token])))
    else:
      shown.append(vocab.decode([token]) or NO_TEXT)
  return shown


def _behind(before: str, both: str) -> str:
  """What a text has behind its beginning."""
  return (both.removeprefix(before)) or NO_TEXT


def listed(measures: Mapping[str, Any]) -> list[int]:
  """The vocabulary ids in the rows of the measure `vocabulary`."""
  rows: Iterable[Mapping[str, Any]] = measures.get('vocabulary', {}).values()
  ids = {int(token[0]) for row in rows for token in row['tokens']}
  return sorted(ids)


def words(vocab: Vocab, ids: Sequence[int]) -> dict[int, str]:
  """The text of vocabulary ids, each behind a letter, with its spaces."""
  try:
    letter = vocab.encode('a')[-1:]
  except errors.InputError:
    letter = []  # a vocabulary of ids alone
  before = vocab.decode(letter)
  return {i: _behind(before, vocab.decode([*letter, i])) for i in ids}
