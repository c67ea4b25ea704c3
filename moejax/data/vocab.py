"""VOCABS: text to token ids and back, without TensorFlow.

In every vocabulary id 0 is padding and the first token of every segment, and no
text encodes to it. The exceptions are tokenizers of released models, in which
id 0 may be an ordinary token. `to_seqio` makes the same vocabulary for SeqIO
tasks.
"""

import dataclasses
import functools
import hashlib
import os
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Protocol

from moejax.core import errors, fields, resume
from moejax.data import seqio_bridge, vocab_file, vocab_spans
from moejax.data.hf_tokenizer import HfTokenizer
from moejax.data.vocab_spans import Span

SHIPPED = pathlib.Path(__file__).parent / 'vocabs' / 'minipile_8k.model'


class Vocab(Protocol):
  """A tokenizer: a frozen dataclass whose fields are its config keys.

  Attributes:
    size: one more than the largest id.
    eos_id: the id that ends every document.
    start: ids that generation puts before a prompt.
    first_id: the id that a model in training reads at the start of a segment.
    least_id: the smallest id that a text encodes to.
  """

  __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

  @property
  def size(self) -> int: ...
  @property
  def eos_id(self) -> int: ...
  @property
  def first_id(self) -> int: ...
  @property
  def least_id(self) -> int: ...
  @property
  def start(self) -> tuple[int, ...]: ...

  def encode(self, text: str) -> list[int]:
    """The ids of a text, without EOS."""

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    """The ids of several texts, on several threads where that helps."""

  def encode_prompt(self, text: str) -> list[int]:
    """The ids of a prompt, in which special tokens stand for themselves.

    Example: '<s>' is one id here; in `encode` it is those of '<', 's' and '>'.
    """

  def encode_spans(
    self, texts: Sequence[str], spans: Sequence[Sequence[Span]]
  ) -> list[tuple[list[int], list[Span]]]:
    """The ids of texts, with the places of parts of the texts among the ids.

    Special tokens stand for themselves, as in `encode_prompt`.

    Args:
      texts: the texts.
      spans: of each text (start, end) of some parts, in characters.

    Returns:
      Of each text the ids, and (start, end) of the same parts among them. An
      id that belongs to a part only with some of its characters is in it.
    """

  def eos_text(self) -> str:
    """The text that `encode_spans` reads as EOS; '' if there is none."""

  def decode(self, ids: Iterable[int]) -> str:
    """The text of the ids; padding and EOS are left out."""

  def fingerprint(self) -> str:
    """A string that changes whenever some text would encode to other ids."""

  def to_seqio(self) -> Any:
    """The vocabulary as a seqio.Vocabulary; imports TensorFlow."""


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

  def encode_spans(
    self, texts: Sequence[str], spans: Sequence[Sequence[Span]]
  ) -> list[tuple[list[int], list[Span]]]:
    return vocab_spans.by_parts(texts, spans, self._part)

  def eos_text(self) -> str:
    return '</s>'

  def _part(self, text: str, begins: bool) -> list[int]:
    del begins
    ids: list[int] = []
    for plain in text.split(self.eos_text()):
      ids += [*self.encode(plain), self.eos_id]
    return ids[:-1]

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

  The shipped model has 8192 pieces and was made by `cli/train_tokenizer.py`. It
  decodes the ids of any text to the same text, except for U+2581, which
  SentencePiece uses for the space. The ids of a model whose id 0 is not padding
  are shifted up by one. The tokenizer of a released model keeps its ids
  (`shift` 0); segments then begin as with HfTokenizer.

  Attributes:
    path: the model file; '' means the shipped one.
    shift: 0 or 1, added to the ids of the model; None means 0 if id 0 of the
      model is padding, else 1.
    eos_token: the piece that ends a document; '' means the model's own.
    start_token: with `shift` 0, the piece that a text begins with; '' for none.
  """

  # A resumed run may name another file; config/kept_tokenizer.py checks that it
  # holds the same tokenizer.
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
    return self._prompt(text, begins=True)

  def encode_spans(
    self, texts: Sequence[str], spans: Sequence[Sequence[Span]]
  ) -> list[tuple[list[int], list[Span]]]:
    return vocab_spans.by_parts(texts, spans, self._prompt)

  def eos_text(self) -> str:
    return self._processor.id_to_piece(self.eos_id - self._shift)

  def _prompt(self, text: str, begins: bool) -> list[int]:
    """The ids of a prompt, or of a part of one that does not begin it."""
    shift = self._shift
    plain_ids = self.encode if begins else self._inner_ids
    if not self._control:
      return plain_ids(text)
    names = sorted(self._control, key=len, reverse=True)
    parts = re.split(f'({"|".join(map(re.escape, names))})', text)
    # The pattern is a group, so every second part is a special token.
    ids = plain_ids(parts[0]) if parts[0] else []
    for special, plain in zip(parts[1::2], parts[2::2], strict=True):
      ids.append(self._control[special] + shift)
      ids += self._inner_ids(plain)
    return ids

  def _inner_ids(self, text: str) -> list[int]:
    return [i + self._shift for i in self._inner.encode(text)]

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

  def unshifted(self) -> 'SentencePiece | None':
    """The same ids as the tokenizer of a released model; None if shifted."""
    if self._shift:
      return None
    name = self._processor.id_to_piece
    start = name(self.start[-1]) if self.start else ''
    return dataclasses.replace(
      self, shift=0, eos_token=name(self.eos_id), start_token=start
    )

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
    """Whether the ids are the model's own, even if id 0 is not padding."""
    return self.shift == 0

  def _piece(self, field: str) -> int:
    """The id of the piece that a field names."""
    piece = getattr(self, field)
    piece_id = self._processor.piece_to_id(piece)
    if self._processor.id_to_piece(piece_id) != piece:
      raise errors.InputError(
        f'data.vocab.{field}={piece!r} is no piece of {self.path!r}'
      )
    return piece_id + self._shift

  @functools.cached_property
  def _control(self) -> dict[str, int]:
    """The ids of control pieces, to which no text encodes."""
    model = self._processor
    ids = range(model.get_piece_size())
    return {model.id_to_piece(i): i for i in ids if model.is_control(i)}

  @functools.cached_property
  def _inner(self) -> Any:
    """A processor for text behind a special token, which adds no space."""
    import sentencepiece

    # A message that occurs twice in a serialised protocol buffer is merged.
    # These bytes are a second `normalizer_spec` (field 3) with
    # `add_dummy_prefix` (its field 3) false.
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
      remedy = (
        ' but a tokenizer.json: set data.vocab.name=hf_tokenizer, and '
        'data.vocab.eos_token'
        if self._model.lstrip().startswith(b'{')
        else ''
      )
      raise errors.InputError(
        f'data.vocab.path={self.path!r} is not a SentencePiece model{remedy}'
      ) from None


@dataclasses.dataclass(frozen=True)
class Ids(fields.Checked):
  """The vocabulary of a model that came without a tokenizer: ids, no text.

  Prompts are given to `moejax generate` as ids; to train on text, set
  another `data.vocab`.

  Attributes:
    size: one more than the largest id of the model.
    eos_id: the id that ends a text; -1 for none.
    start_id: the id that a text begins with; -1 for none.
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
      'text for it; set data.vocab, or give ids (moejax generate '
      '--prompt_ids=1,2,3)'
    )

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    return [self.encode(text) for text in texts]

  def encode_prompt(self, text: str) -> list[int]:
    return self.encode(text)

  def encode_spans(
    self, texts: Sequence[str], spans: Sequence[Sequence[Span]]
  ) -> list[tuple[list[int], list[Span]]]:
    del spans
    return [(self.encode(text), []) for text in texts]

  def eos_text(self) -> str:
    return ''

  def decode(self, ids: Iterable[int]) -> str:
    """The ids as numbers, since there is no text."""
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
