"""A Hugging Face tokenizer.json as a vocabulary."""

import contextlib
import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from moejax.core import errors, fields, resume
from moejax.data import seqio_bridge, vocab_file, vocab_spans


@dataclasses.dataclass(frozen=True)
class HfTokenizer(fields.Checked):
  """A Hugging Face tokenizer.json, its ids shifted up by one.

  The shift frees id 0 for padding, since id 0 of a tokenizer.json is often a
  real token. A released model has embeddings for its own ids, so its tokenizer
  is used without a shift. A segment then begins with the model's start token
  or, if the model has none, with its EOS, as if the text before had ended.

  Special tokens written out in a text are encoded as plain text (except by
  unigram models, to which they are words like others), those in a prompt as
  themselves.

  Attributes:
    path: the tokenizer.json.
    eos_token: the token that ends a document, such as '<|endoftext|>'.
    shift: 1, or 0 for the tokenizer of a released model.
    start_token: without a shift, the special token or tokens that a text begins
      with, such as '[gMASK]<sop>'; '' for none.
  """

  path: str = resume.key(resume.NOTHING, 'tokenizer.json')
  eos_token: str = '<|endoftext|>'
  shift: int = fields.number(1, at_least=0, at_most=1)
  start_token: str = ''

  def encode(self, text: str) -> list[int]:
    return self.encode_batch([text])[0]

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    encodings = self._tokenizer.encode_batch(
      list(texts), add_special_tokens=False
    )
    shift = self.shift
    return [[i + shift for i in encoding.ids] for encoding in encodings]

  def encode_prompt(self, text: str) -> list[int]:
    return [i + self.shift for i in self._parsed(text)]

  def encode_spans(
    self,
    texts: Sequence[str],
    spans: Sequence[Sequence[vocab_spans.Span]],
  ) -> list[tuple[list[int], list[vocab_spans.Span]]]:
    with self._special_tokens():
      encodings = self._tokenizer.encode_batch(
        list(texts), add_special_tokens=False
      )
    return [
      (
        [i + self.shift for i in encoding.ids],
        vocab_spans.by_offsets(encoding.offsets, wanted),
      )
      for encoding, wanted in zip(encodings, spans, strict=True)
    ]

  def eos_text(self) -> str:
    return self.eos_token

  def decode(self, ids: Iterable[int]) -> str:
    eos, size, shift = self.eos_id, self.size, self.shift
    kept = [int(i) - shift for i in ids if shift <= i < size and i != eos]
    return self._tokenizer.decode(kept, skip_special_tokens=False)

  def fingerprint(self) -> str:
    digest = hashlib.sha256(vocab_file.read(self.path)).hexdigest()
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
    if not self.start_token:
      return ()
    if self._tokenizer.token_to_id(self.start_token) is None:
      ids = self._parsed(self.start_token)
      special = self._tokenizer.get_added_tokens_decoder().keys()
      if ids and special >= {*ids}:
        return tuple(ids)
    return (self._special('start_token'),)

  def prefix(self) -> str:
    """The special tokens that the file's post-processor puts before a text.

    Example: '<s>' of Llama's, '' of GPT-2's, '[gMASK]<sop>' of GLM's.
    """
    encoding = self._tokenizer.encode('a', add_special_tokens=True)
    plain = len(self._tokenizer.encode('a', add_special_tokens=False).ids)
    mask = encoding.special_tokens_mask
    size = mask.index(0) if 0 in mask else len(mask) - plain
    return ''.join(encoding.tokens[:size])

  def special_ids(self) -> list[int]:
    """The ids of all special tokens."""
    added = self._tokenizer.get_added_tokens_decoder()
    return [i + self.shift for i, token in added.items() if token.special]

  @property
  def least_id(self) -> int:
    return self.shift

  @property
  def first_id(self) -> int:
    if self.shift:
      return 0
    return self.start[-1] if self.start else self.eos_id

  def _parsed(self, text: str) -> list[int]:
    """Ids of a text, without shift; special tokens in it are recognised."""
    with self._special_tokens():
      return self._tokenizer.encode(text, add_special_tokens=False).ids

  @contextlib.contextmanager
  def _special_tokens(self) -> Iterator[None]:
    """Special tokens in a text are recognised in the block."""
    self._tokenizer.encode_special_tokens = False
    try:
      yield
    finally:
      self._tokenizer.encode_special_tokens = True

  def _special(self, field: str) -> int:
    """The id of the token that a field names."""
    token = getattr(self, field)
    token_id = self._tokenizer.token_to_id(token)
    if token_id is None:
      special = self._tokenizer.get_added_tokens_decoder().values()
      names = ', '.join(token.content for token in special) or '(none)'
      raise errors.InputError(
        f'data.vocab.{field}={token!r} is not in {self.path}; its '
        f'special tokens are: {names}'
      )
    return token_id + self.shift

  @functools.cached_property
  def _tokenizer(self) -> Any:
    need = 'data.vocab.name=hf_tokenizer', 'tokenizers'
    with seqio_bridge.needed(*need, 'set data.vocab.name=bytes'):
      import tokenizers

    text = vocab_file.read(self.path)
    try:
      tokenizer = tokenizers.Tokenizer.from_str(text.decode())
    except Exception as e:  # noqa: BLE001 (the library raises only Exception)
      reason = str(e).splitlines()[0]
      if not vocab_file.read(self.path).lstrip().startswith(b'{'):
        reason = (
          'it is not JSON; for a SentencePiece model set '
          'data.vocab.name=sentencepiece'
        )
      raise errors.InputError(
        f'data.vocab.path={self.path!r} is not a tokenizer.json: {reason}'
      ) from None
    tokenizer.encode_special_tokens = True
    # Truncation and padding in the file are meant for batches of sentences.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    # A file may list these tokens only among its words.
    named = [self.eos_token, self.start_token]
    tokenizer.add_special_tokens([
      token for token in named if tokenizer.token_to_id(token) is not None
    ])
    return tokenizer
