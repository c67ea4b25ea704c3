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
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from moejax.core import errors
from moejax.data import seqio_bridge

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

  def decode(self, ids: Iterable[int]) -> str:
    kept = bytes(int(i) - 3 for i in ids if 3 <= i < 259)
    return kept.decode(errors='ignore')

  def fingerprint(self) -> str:
    return 'bytes+3'

  def to_seqio(self) -> Any:
    seqio, _ = seqio_bridge.load('the vocabulary')
    return seqio.ByteVocabulary()


@dataclasses.dataclass(frozen=True)
class SentencePiece:
  """A SentencePiece model file.

  The model that is shipped has 8192 pieces and gives any text back exactly
  (but for U+2581, which SentencePiece itself uses for the space);
  `cli/train_tokenizer.py` made it. A model without padding at id 0 is shifted
  up by one, so that its id 0 is not taken for padding.

  Attributes:
    path: of the model; '' is the shipped one.
  """

  path: str = ''

  first_id = 0
  least_id = 1
  start = (0,)

  def encode(self, text: str) -> list[int]:
    shift = self._shift
    ids = self._processor.encode(text)
    return [i + shift for i in ids] if shift else ids

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    shift = self._shift
    ids = self._processor.encode(list(texts), num_threads=os.cpu_count() or 1)
    return [[i + shift for i in row] for row in ids] if shift else ids

  def decode(self, ids: Iterable[int]) -> str:
    shift, eos, size = self._shift, self.eos_id, self.size
    return self._processor.decode([
      int(i) - shift for i in ids if 0 < i < size and i != eos
    ])

  def fingerprint(self) -> str:
    return 'sentencepiece:' + hashlib.sha256(self._model).hexdigest()

  def to_seqio(self) -> Any:
    seqio, _ = seqio_bridge.load('the vocabulary')
    if self._shift:
      return seqio_bridge.vocabulary(self)
    return seqio.SentencePieceVocabulary(self.path or str(SHIPPED))

  @functools.cached_property
  def size(self) -> int:
    return self._processor.get_piece_size() + self._shift

  @functools.cached_property
  def eos_id(self) -> int:
    eos = self._processor.eos_id()
    if eos < 0:
      raise errors.InputError(
        f'data.vocab.path={self.path!r}: the model has no end-of-sentence '
        'piece; train it with eos_id=1'
      )
    return eos + self._shift

  @functools.cached_property
  def _shift(self) -> int:
    return 0 if self._processor.pad_id() == 0 else 1

  @functools.cached_property
  def _model(self) -> bytes:
    return _read(self.path or str(SHIPPED))

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
class HfTokenizer:
  """A Hugging Face tokenizer.json, its ids shifted up by one.

  The shift frees id 0 for padding: there, id 0 is often a real token. A model
  that comes with its tokenizer has no such shift: a text for it begins with its
  start token or, if it has none, with the one that ended the text before, as
  where texts are laid end to end. Special tokens that stand in a text are read
  as plain text.

  Attributes:
    path: of the tokenizer.json.
    eos_token: which token ends a document, such as '<|endoftext|>'.
    shift: 1, or 0 for the tokenizer of a model that is there already.
    start_token: without a shift, what a text begins with, if anything.
  """

  path: str = 'tokenizer.json'
  eos_token: str = '<|endoftext|>'
  shift: int = 1
  start_token: str = ''

  def __post_init__(self):
    if self.shift not in (0, 1):
      raise errors.InputError(f'data.vocab.shift={self.shift} must be 0 or 1')

  def encode(self, text: str) -> list[int]:
    return self.encode_batch([text])[0]

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    found = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
    shift = self.shift
    return [[i + shift for i in one.ids] for one in found]

  def decode(self, ids: Iterable[int]) -> str:
    eos, size, shift = self.eos_id, self.size, self.shift
    kept = [int(i) - shift for i in ids if shift <= i < size and i != eos]
    return self._tokenizer.decode(kept, skip_special_tokens=False)

  def fingerprint(self) -> str:
    digest = hashlib.sha256(_read(self.path)).hexdigest()
    return f'hf+{self.shift}:{digest}:eos={self.eos_id}'

  def to_seqio(self) -> Any:
    return seqio_bridge.vocabulary(self)

  @functools.cached_property
  def size(self) -> int:
    known = self._tokenizer.get_vocab(with_added_tokens=True)
    return max(known.values()) + 1 + self.shift

  @functools.cached_property
  def eos_id(self) -> int:
    return self._special('eos_token')

  @functools.cached_property
  def start(self) -> tuple[int, ...]:
    if self.shift:
      return (0,)
    return (self._special('start_token'),) if self.start_token else ()

  @property
  def least_id(self) -> int:
    return self.shift

  @property
  def first_id(self) -> int:
    if self.shift:
      return 0
    return self.start[0] if self.start else self.eos_id

  def _special(self, field: str) -> int:
    """The id of the token that a field names."""
    token = getattr(self, field)
    found = self._tokenizer.token_to_id(token)
    if found is None:
      special = self._tokenizer.get_added_tokens_decoder().values()
      names = ', '.join(token.content for token in special) or '(none)'
      raise errors.InputError(
        f'data.vocab.{field}={token!r} is not in {self.path}; its '
        f'special tokens are: {names}'
      )
    return found + self.shift

  @functools.cached_property
  def _tokenizer(self) -> Any:
    need = 'data.vocab.name=hf_tokenizer', 'tokenizers'
    with seqio_bridge.needed(*need, 'set data.vocab.name=bytes'):
      import tokenizers

    text = _read(self.path)
    try:
      tokenizer = tokenizers.Tokenizer.from_str(text.decode())
    except Exception as e:  # noqa: BLE001 (the library raises only Exception)
      raise errors.InputError(
        f'data.vocab.path={self.path!r} is not a tokenizer.json: '
        f'{str(e).splitlines()[0]}'
      ) from None
    tokenizer.encode_special_tokens = True
    # What the file says of fixed lengths is meant for batches of sentences.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


VOCABS = {
  'bytes': Bytes,
  'hf_tokenizer': HfTokenizer,
  'sentencepiece': SentencePiece,
}


def _read(path: str) -> bytes:
  try:
    return pathlib.Path(path).expanduser().read_bytes()
  except OSError as e:
    raise errors.InputError(
      f'data.vocab.path={path!r} cannot be read: {e.strerror or e}'
    ) from None
