"""The text of `data.conversations`: files of conversations, as one domain."""

import dataclasses
import functools
import itertools
import math
import pathlib
from collections.abc import Callable, Generator, Iterator
from typing import Any

from moejax.core import errors
from moejax.data import (
  cache_writer,
  files,
  json_list,
  opening,
  packings,
  readers,
  seqio_bridge,
)
from moejax.data import request as request_lib
from moejax.data import sums as sums_lib
from moejax.data.chat import tokens
from moejax.data.chat.config import Chat
from moejax.data.chat.messages import Conversation, ProblemError, parse
from moejax.data.images import Images
from moejax.data.images.library import Library
from moejax.data.images.rows import ImageRows
from moejax.data.images.vocab import ImageVocab

_AT_ONCE = 256  # conversations that are encoded together
_LINES = ('.jsonl', '.jsonl.gz', '.jsonl.zst')
KINDS: readers.Readers = {
  **{kind: readers.READERS[kind] for kind in _LINES},
  # A list, or lines: the file itself shows which.
  '.json': json_list.read,
  '.json.gz': functools.partial(json_list.read, open_file=opening.gzipped),
  '.json.zst': functools.partial(json_list.read, open_file=opening.zstandard),
}


@dataclasses.dataclass(frozen=True)
class Conversations(files.Files):
  """Files of conversations, each of which is a document.

  Rows are always packed by best fit, because no conversation may be cut in the
  middle. Of few conversations those with the smallest hashes are held out.

  Attributes:
    chat: template and loss.
    images: where the images are; without a folder, conversations have none.
  """

  chat: Chat = Chat()
  images: Images = Images()

  name = 'conversations'
  kinds = KINDS
  masked = True
  no_sample = 'the length of a conversation depends on its template'

  def encoded(
    self, split: str, request: cache_writer.Request
  ) -> cache_writer.Request:
    """The request with a vocabulary that encodes conversations."""
    packing = request.packing
    if not isinstance(packing, packings.BestFit):
      packing = packings.BestFit()
    vocab: Any = tokens.ChatVocab(
      request.vocab, self.chat, f'{self.place}.chat.template', request.length
    )
    if self.images.folder:
      vocab = ImageVocab(vocab, self._library(split, request))
    return dataclasses.replace(request, vocab=vocab, packing=packing)

  def rows(self, split: str, request: cache_writer.Request) -> Any:
    """The packed rows of a split, with their images if there are any."""
    encoded = self.encoded(split, request)
    rows = cache_writer.make(self, split, encoded)
    if isinstance(encoded.vocab, ImageVocab):
      return ImageRows(rows, encoded.vocab)
    return rows

  def _library(self, split: str, request: cache_writer.Request) -> Library:
    """The images of a split."""
    name = f'{self.label} {split}'

    def names() -> Iterator[str]:
      for conversation in self._of_split(self.all_texts(split), split):
        yield from conversation.images

    return Library(
      self.images,
      names,
      request.folder,
      request.sums,
      stops=self.bad_lines != 'skip',
      place=self.place,
      note=lambda line: request.report(request_lib.Progress(name, note=line)),
    )

  def identity(self, split: str, sums: sums_lib.Sums) -> dict[str, Any]:
    return {**super().identity(split, sums), 'schema': 1}

  def former_identity(self, split: str, sums: sums_lib.Sums) -> None:
    del split, sums

  def texts(
    self, split: str, note: Callable[[str], None] = lambda _: None
  ) -> Any:
    """None: a conversation has no text without a template."""
    del split, note

  def sample(self, split: str) -> Any:
    del split

  def shards(self, split: str) -> Any:
    del split

  def to_seqio(self, vocab: Any) -> Any:
    del vocab
    raise errors.InputError(
      f'{self.place}.conversations is read without SeqIO, which has no weights '
      'of targets'
    )

  def documents(
    self,
    split: str,
    vocab: Any,
    *,
    skip: int,
    note: Callable[[str], None],
  ) -> Generator[seqio_bridge.Document]:
    """The conversations of a split as token ids, from number `skip` on.

    Args:
      split: 'train' or 'validation'.
      vocab: a `tokens.ChatVocab`.
      skip: conversations at the beginning that are passed over.
      note: called with lines about conversations left out, and about answers
        that are cut.

    Raises:
      InputError: a conversation is bad and `bad_lines` is 'stop'.
    """
    yield from itertools.islice(self._encoded(split, vocab, note), skip, None)

  def _encoded(
    self, split: str, vocab: Any, note: Callable[[str], None]
  ) -> Iterator[seqio_bridge.Document]:
    # From the first one on, so that the notes count all of them.
    listed = self._of_split(self.all_texts(split, note), split)
    bad, cut, answers = files.Bad(), 0, 0
    while group := [*itertools.islice(listed, _AT_ONCE)]:
      results = vocab.encode_conversations(group)
      for conversation, result in zip(group, results, strict=True):
        if isinstance(result, ProblemError):
          self._add(bad, conversation.where, str(result))
          continue
        cut += bool(result.left_out)
        answers += result.left_out
        yield seqio_bridge.Document(result.ids_T, result.num_bytes)
    if bad.count:
      note(f'left out {bad}')
    if cut:
      note(
        f'{cut:,} conversation{"s" * (cut > 1)} longer than {vocab.length:,} '
        f'tokens (data.sequence_length): the last {answers:,} '
        f'answer{"s" * (answers > 1)} are left out'
      )

  def _add(self, bad: files.Bad, where: str, problem: str) -> None:
    """Counts a conversation that the template or a row cannot hold."""
    if self.bad_lines != 'skip':
      raise errors.InputError(
        f'{where}: {problem}; mend it, or leave out all such conversations '
        f'with {self.place}.bad_lines=skip'
      )
    bad.add(readers.Item(where, '', problem))

  def _read(self, path: pathlib.Path) -> Iterator[readers.Item]:
    item = functools.partial(_item, images=bool(self.images.folder))
    return readers.read(path, item, KINDS)

  def _of_split(self, texts: Iterator[Any], split: str) -> Iterator[Any]:
    if self.validation or not self._few:
      yield from super()._of_split(texts, split)
      return
    listed = [*texts]
    by_hash = sorted(range(len(listed)), key=lambda i: listed[i].sha256())
    count = min(len(listed) - 1, math.ceil(self.fraction * len(listed)))
    held_out = {*by_hash[:count]}
    for i, conversation in enumerate(listed):
      if (i in held_out) == (split == 'validation'):
        yield conversation


def _item(
  where: str, row: dict[str, Any], *, images: bool = False
) -> readers.Item:
  """The conversation of one object, or the problem with it."""
  try:
    conversation: Conversation = parse(where, row, images=images)
  except ProblemError as e:
    return readers.Item(where, '', str(e))
  return readers.Item(where, conversation, '')
