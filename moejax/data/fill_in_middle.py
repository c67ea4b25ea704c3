"""Fill-in-the-middle: code is shown as prefix, suffix and then the middle.

A share of the documents is cut into three parts at two uniformly drawn
characters. The middle is moved to the end, behind sentinels, so that a model
learns to insert text between two others (Bavarian et al., 2022, Efficient
training of language models to fill in the middle, section 3). Sentinels are
ids that no text encodes to, so this is done where text becomes ids.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from typing import Any

from moejax.core import errors, fields
from moejax.data import vocab as vocabs


@dataclasses.dataclass(frozen=True)
class FillInMiddle(fields.Checked):
  """How documents are rearranged; whether and where follows from their text.

  PSM, prefix before suffix:  PRE prefix SUF suffix MID middle EOS
  SPM, suffix before prefix:  PRE SUF suffix MID prefix middle EOS

  Attributes:
    rate: share of the training documents that are rearranged; 0 for none.
    spm: share of these that are in the order SPM, the others in PSM.
    tokens: the special tokens PRE, SUF and MID of the tokenizer.
    ids: their ids, for a tokenizer without such tokens; empty: of `tokens`.
  """

  rate: float = fields.number(0.0, at_least=0, at_most=1)
  spm: float = fields.number(0.0, at_least=0, at_most=1)
  tokens: tuple[str, ...] = ('<fim_prefix>', '<fim_suffix>', '<fim_middle>')
  ids: tuple[int, ...] = fields.number((), at_least=0)

  def sentinels(self, vocab: vocabs.Vocab, place: str) -> tuple[int, ...]:
    """The ids of PRE, SUF and MID.

    Args:
      vocab: the tokenizer.
      place: dotted path of the node, for errors.

    Raises:
      InputError: they are not three different ids of the tokenizer.
    """
    ids = self.ids
    if not ids:
      found = [vocab.encode_prompt(token) for token in self.tokens]
      for token, token_ids in zip(self.tokens, found, strict=True):
        if len(token_ids) != 1:
          raise errors.InputError(
            f'{place}.tokens: {token!r} is no special token of data.vocab; set '
            f'{place}.tokens to three that it has, or {place}.ids'
          )
      ids = tuple(token_ids[0] for token_ids in found)
    if len({*ids, vocab.eos_id}) != 4 or len(ids) != 3:
      raise errors.InputError(
        f'{place}: prefix, suffix and middle need three ids that differ from '
        f'each other and from the end of a document, not {[*ids]}'
      )
    if max(ids) >= vocab.size or min(ids) < vocab.least_id:
      raise errors.InputError(
        f'{place}.ids={",".join(map(str, ids))}: the ids of data.vocab are '
        f'{vocab.least_id} to {vocab.size - 1}'
      )
    return ids


@dataclasses.dataclass(frozen=True)
class Rearranged:
  """A vocabulary that rearranges a share of the documents it encodes.

  Documents of more than 4 million characters, which are encoded in pieces, stay
  as they are.

  Attributes:
    vocab: the tokenizer.
    config: how documents are rearranged.
    place: dotted path of the config's node, for errors.
  """

  vocab: Any
  config: FillInMiddle
  place: str

  def __reduce__(self) -> Any:
    # The fields alone: a loaded tokenizer may lose settings when it is sent.
    fields_ = dataclasses.replace(self.vocab), self.config, self.place
    return Rearranged, fields_

  @functools.cached_property
  def sentinels(self) -> tuple[int, ...]:
    """The ids of PRE, SUF and MID."""
    return self.config.sentinels(self.vocab, self.place)

  @property
  def size(self) -> int:
    return self.vocab.size

  @property
  def eos_id(self) -> int:
    return self.vocab.eos_id

  @property
  def first_id(self) -> int:
    return self.vocab.first_id

  @property
  def least_id(self) -> int:
    return self.vocab.least_id

  @property
  def start(self) -> tuple[int, ...]:
    return self.vocab.start

  def encode(self, text: str) -> list[int]:
    return self.vocab.encode(text)

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    return self.vocab.encode_batch(texts)

  def encode_prompt(self, text: str) -> list[int]:
    return self.vocab.encode_prompt(text)

  def decode(self, ids: Any) -> str:
    return self.vocab.decode(ids)

  def to_seqio(self) -> Any:
    return self.vocab.to_seqio()

  def fingerprint(self) -> str:
    config = dataclasses.astuple(
      dataclasses.replace(self.config, ids=self.sentinels, tokens=())
    )
    return f'{self.vocab.fingerprint()}:fill_in_middle={config}'

  def encode_documents(self, texts: Sequence[str]) -> list[list[int]]:
    """The ids of whole documents, some of them rearranged, without EOS."""
    parts = [split(text, self.config) for text in texts]
    flat = [part for document in parts for part in document.texts]
    ids = iter(self.vocab.encode_batch(flat))
    pre, suf, mid = self.sentinels
    result = []
    for document in parts:
      if len(document.texts) == 1:
        result.append(next(ids))
        continue
      prefix, middle, suffix = next(ids), next(ids), next(ids)
      if document.spm:
        result.append([pre, suf, *suffix, mid, *prefix, *middle])
      else:
        result.append([pre, *prefix, suf, *suffix, mid, *middle])
    return result


@dataclasses.dataclass(frozen=True)
class Parts:
  """A document in parts.

  Attributes:
    texts: prefix, middle and suffix; or the document alone.
    spm: whether the suffix comes before the prefix.
  """

  texts: tuple[str, ...]
  spm: bool = False


def split(text: str, config: FillInMiddle) -> Parts:
  """Cuts a document, as a function of its text alone.

  Four numbers in [0, 1) are taken from a hash of the text: whether the document
  is cut, its order, and the two cuts.
  """
  digest = hashlib.sha256(b'fill in the middle' + text.encode()).digest()
  drawn, order, one, other = (
    int.from_bytes(digest[i : i + 8]) / 2**64 for i in (0, 8, 16, 24)
  )
  if drawn >= config.rate:
    return Parts((text,))
  # A cut is before any character or at the end.
  first, second = sorted(int(x * (len(text) + 1)) for x in (one, other))
  texts = text[:first], text[first:second], text[second:]
  return Parts(texts, order < config.spm)
