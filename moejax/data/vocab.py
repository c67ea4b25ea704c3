"""Text to token ids and back, without TensorFlow.

Id 0 is padding in every vocabulary, and the start of every segment; no text
ever encodes to it, but with the tokenizer of a model that comes with one: there
id 0 may be a token like others. Each also makes its SeqIO counterpart for
Tasks.
"""

import dataclasses
import functools
import hashlib
import os
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from moejax.core import errors, fields, resume
from moejax.data import seqio_bridge, vocab_file
from moejax.data.hf_tokenizer import HfTokenizer

SHIPPED = pathlib.Path(__file__).parent / 'vocabs' / 'minipile_8k.model'


class Vocab(Protocol):
  """A tokenizer: a frozen dataclass that says where it comes from.

  Attributes:
    size: one more than the largest id.
    eos_id: ends every document.
    start: what stands before a text that a model continues.
    first_id: what a model in training reads where a segment begins.
    least_id: the least that a text encodes to.
  """

  size: int
  eos_id: int
  first_id: int
  least_id: int
  start: tuple[int, ...]

  def encode(self, text: str) -> list[int]:
    """The ids of a text, without EOS."""

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    """The ids of several texts, on several threads where that helps."""

  def encode_prompt(self, text: str) -> list[int]:
    """The same of a prompt: special tokens in it stand for themselves.

    Example: '<s>' is one id here, and the ids of '<', 's' and '>' in `encode`.
    """

  def decode(self, ids: Iterable[int]) -> str:
    """The text of the ids; padding and EOS are left out."""

  def fingerprint(self) -> str:
    """Changes whenever any text would encode to other ids."""

  def to_seqio(self) -> Any:
    """The same as a seqio.Vocabulary; imports TensorFlow."""


@dataclasses.dataclass(frozen=True)
class Bytes:
  """UTF-8 bytes plus 3, 259 ids: padding 0, EOS 1, unknown 2.

  Source: ByT5 (Xue et al., 2021, arXiv 2105.13626), section 3.1.

  Example:
    encode('hi')  [107, 108]
  """

  size = 259
  eos_id = 1
  first_id = 0
  least_id = 1
  start = (0,)

  def encode(self, text: str) -> list[int]:
    return [byte + 3 for byte in text.encode()]

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    return [self.encode(text) for text in texts]

  def encode_prompt(self, text: str) -> list[int]:
    return self.encode(text)

  def decode(self, ids: Iterable[int]) -> str:
    kept = bytes(int(i) - 3 for i in ids if 3 <= i < 259)
    return kept.decode(errors='ignore')

  def fingerprint(self) -> str:
    return 'bytes+3'

  def to_seqio(self) -> Any:
    seqio, _ = seqio_bridge.load('the vocabulary')
    return seqio.ByteVocabulary()


@dataclasses.dataclass(frozen=True)
class SentencePiece(fields.Checked):
  """A SentencePiece model file.

  The model that is shipped has 8192 pieces and gives any text back exactly
  (but for U+2581, which SentencePiece itself uses for the space);
  `cli/train_tokenizer.py` made it. A model without padding at id 0 is shifted
  up by one, so that its id 0 is not taken for padding, unless `shift` says
  otherwise: the model of weights that are there already has `shift` 0, and then
  its texts begin as those of HfTokenizer.

  Attributes:
    path: of the model; '' is the shipped one.
    shift: added to its ids, 0 or 1; None is 1 where id 0 is not padding.
    eos_token: which piece ends a document; '' is the model's own.
    start_token: with `shift` 0, what a text begins with, if anything.
  """

  # Another file must hold the same tokenizer: config/kept_tokenizer.py compares
  # them.
  path: str = resume.key(resume.NOTHING, '')
  shift: int | None = fields.number(
    None, at_least=0, at_most=1, note='none: as the model needs'
  )
  eos_token: str = ''
  start_token: str = ''

  def encode(self, text: str) -> list[int]:
    shift = self._shift
    ids = self._processor.encode(text)
    return [i + shift for i in ids] if shift else ids

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    shift = self._shift
    ids = self._processor.encode(list(texts), num_threads=os.cpu_count() or 1)
    return [[i + shift for i in row] for row in ids] if shift else ids

  def encode_prompt(self, text: str) -> list[int]:
    shift = self._shift
    if not self._control:
      return self.encode(text)
    names = sorted(self._control, key=len, reverse=True)
    parts = re.split(f'({"|".join(map(re.escape, names))})', text)
    # The pattern is a group: every other part is a special token.
    ids = self.encode(parts[0]) if parts[0] else []
    for special, plain in zip(parts[1::2], parts[2::2], strict=True):
      ids.append(self._control[special] + shift)
      ids += [i + shift for i in self._inner.encode(plain)]
    return ids

  def decode(self, ids: Iterable[int]) -> str:
    shift, eos, size = self._shift, self.eos_id, self.size
    least = self.least_id
    return self._processor.decode([
      int(i) - shift for i in ids if least <= i < size and i != eos
    ])

  def fingerprint(self) -> str:
    own = 'sentencepiece:' + hashlib.sha256(self._model).hexdigest()
    if self.shift is None and not self.eos_token:
      return own
    return f'{own}:+{self._shift}:eos={self.eos_id}'

  def to_seqio(self) -> Any:
    seqio, _ = seqio_bridge.load('the vocabulary')
    if self._shift or self._as_it_is or self.eos_token:
      return seqio_bridge.vocabulary(self)
    return seqio.SentencePieceVocabulary(self.path or str(SHIPPED))

  @functools.cached_property
  def size(self) -> int:
    return self._processor.get_piece_size() + self._shift

  @property
  def least_id(self) -> int:
    return 0 if self._as_it_is else 1

  @functools.cached_property
  def start(self) -> tuple[int, ...]:
    if not self._as_it_is:
      return (0,)
    return (self._piece('start_token'),) if self.start_token else ()

  @property
  def first_id(self) -> int:
    return self.start[-1] if self.start else self.eos_id

  @functools.cached_property
  def eos_id(self) -> int:
    if self.eos_token:
      return self._piece('eos_token')
    eos = self._processor.eos_id()
    if eos < 0:
      raise errors.InputError(
        f'data.vocab.path={self.path!r}: the model has no end-of-sentence '
        'piece; train it with eos_id=1'
      )
    return eos + self._shift

  @property
  def _as_it_is(self) -> bool:
    """Whether ids are those of the model, whatever id 0 is."""
    return self.shift == 0

  def _piece(self, field: str) -> int:
    """The id of the piece that a field names."""
    piece = getattr(self, field)
    found = self._processor.piece_to_id(piece)
    if self._processor.id_to_piece(found) != piece:
      raise errors.InputError(
        f'data.vocab.{field}={piece!r} is no piece of {self.path!r}'
      )
    return found + self._shift

  @functools.cached_property
  def _control(self) -> dict[str, int]:
    """The ids of pieces that never come of a text."""
    model = self._processor
    ids = range(model.get_piece_size())
    return {model.id_to_piece(i): i for i in ids if model.is_control(i)}

  @functools.cached_property
  def _inner(self) -> Any:
    """Encodes what is not the beginning of a text: no space is put before."""
    import sentencepiece

    # A message that comes twice in a serialised one is merged: this is another
    # `normalizer_spec` (field 3) with `add_dummy_prefix` (its field 3) false.
    model = self._model + b'\x1a\x02\x18\x00'
    return sentencepiece.SentencePieceProcessor(model_proto=model)

  @functools.cached_property
  def _shift(self) -> int:
    if self.shift is not None:
      return self.shift
    return 0 if self._processor.pad_id() == 0 else 1

  @functools.cached_property
  def _model(self) -> bytes:
    return vocab_file.read(self.path or str(SHIPPED))

  @functools.cached_property
  def _processor(self) -> Any:
    need = 'data.vocab.name=sentencepiece', 'sentencepiece'
    with seqio_bridge.needed(*need, 'set data.vocab.name=bytes'):
      import sentencepiece

    try:
      return sentencepiece.SentencePieceProcessor(model_proto=self._model)
    except RuntimeError:
      raise errors.InputError(
        f'data.vocab.path={self.path!r} is not a SentencePiece model'
      ) from None


@dataclasses.dataclass(frozen=True)
class Ids(fields.Checked):
  """No text at all: of a model that came without a tokenizer.

  Prompts are given to `moejax.cli.generate` as ids; to train on text, set
  another `data.vocab`.

  Attributes:
    size: one more than the largest id; of the model.
    eos_id: ends a text; -1 is none.
    start_id: what a text begins with; -1 is nothing.
  """

  size: int = fields.number(2, at_least=1)
  eos_id: int = fields.number(-1, at_least=-1, note='-1: none')
  start_id: int = fields.number(-1, at_least=-1, note='-1: nothing')

  least_id = 0

  @property
  def start(self) -> tuple[int, ...]:
    return () if self.start_id < 0 else (self.start_id,)

  @property
  def first_id(self) -> int:
    return next((i for i in (self.start_id, self.eos_id) if i >= 0), 0)

  def encode(self, text: str) -> list[int]:
    del text
    raise errors.InputError(
      'data.vocab.name=ids: the model came without a tokenizer, so there is no '
      'text for it; set data.vocab, or give ids (moejax.cli.generate '
      '--prompt_ids=1,2,3)'
    )

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    return [self.encode(text) for text in texts]

  def encode_prompt(self, text: str) -> list[int]:
    return self.encode(text)

  def decode(self, ids: Iterable[int]) -> str:
    """The ids themselves, for there is no text."""
    return ''.join(f' {int(i)}' for i in ids)

  def fingerprint(self) -> str:
    return f'ids:{self.size}'

  def to_seqio(self) -> Any:
    return self.encode('')


VOCABS = {
  'bytes': Bytes,
  'hf_tokenizer': HfTokenizer,
  'ids': Ids,
  'sentencepiece': SentencePiece,
}
