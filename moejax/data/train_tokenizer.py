"""Trains a SentencePiece BPE vocabulary that decodes to exactly the same text.

Ids: padding 0, EOS 1, unknown 2, no BOS (a segment starts with id 0). A
character without a piece is encoded as its bytes. Text is not normalised,
newline is a piece of its own, and runs of spaces may form pieces, for code. The
trainer takes each line as a separate text.
"""

import io
import random
import re
from collections.abc import Iterable, Iterator

from moejax.core import errors
from moejax.data import long_text

# Characters of a line. SentencePiece silently drops lines of more than
# `max_sentence_length` bytes; a character has four bytes at most.
_LONGEST_LINE = 2**18
_TRAINER_BYTES = 4 * _LONGEST_LINE


def train(lines: Iterable[str], size: int) -> bytes:
  """Trains a BPE vocabulary; returns the serialised SentencePiece model.

  Args:
    lines: the training text, in lines as `lines_of` cuts it.
    size: number of pieces, among them the three special ones, 256 bytes and
      newline.

  Raises:
    InputError: the text does not allow a vocabulary of that size.
  """
  import sentencepiece

  model = io.BytesIO()
  try:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(lines),
      model_writer=model,
      model_type='bpe',
      vocab_size=size,
      pad_id=0,
      eos_id=1,
      unk_id=2,
      bos_id=-1,
      byte_fallback=True,
      normalization_rule_name='identity',
      user_defined_symbols=['\n'],
      remove_extra_whitespaces=False,
      allow_whitespace_only_pieces=True,
      add_dummy_prefix=False,
      max_sentence_length=_TRAINER_BYTES,
      num_threads=1,
      minloglevel=2,
    )
  except RuntimeError as e:
    raise errors.InputError(f'--size={size}: {_reason(str(e))}') from None
  return model.getvalue()


def _reason(message: str) -> str:
  """SentencePiece's error in our terms, without advice about its own flags."""
  if few := re.search(r'required_chars\D*\d+ vs (\d+)', message):
    return (
      'the text has more characters than that; take '
      f'--size={few.group(1)} or more'
    )
  if many := re.search(r'size too high.*<= *(\d+)', message):
    return (
      'the text has not enough in it for so many pieces; take '
      f'--size={many.group(1)} or less'
    )
  reason = message.rpartition(']')[2].strip() or 'there is too little text'
  return f'no vocabulary of that size can be trained on this text: {reason}'


def lines_of(texts: Iterable[str | long_text.LongText]) -> Iterator[str]:
  """The lines of texts, without empty ones; long ones are cut before a word."""
  for text in texts:
    chunks = text.chunks() if isinstance(text, long_text.LongText) else [text]
    rest = ''
    for chunk in chunks:
      *whole, rest = (rest + chunk).split('\n')
      for line in whole:
        yield from _cut(line)
      if len(rest) > 2 * _LONGEST_LINE:
        *whole, rest = _cut(rest)
        yield from whole
    yield from _cut(rest)


def _cut(line: str) -> Iterator[str]:
  """A line in parts of at most _LONGEST_LINE characters."""
  while len(line) > _LONGEST_LINE:
    # Before a space; or anywhere, if the second half has none.
    at = line.rfind(' ', _LONGEST_LINE // 2, _LONGEST_LINE)
    at = _LONGEST_LINE if at < 0 else at
    yield line[:at]
    line = line[at:]
  if line:
    yield line


def sample(lines: Iterable[str], num_bytes: int) -> tuple[list[str], float]:
  """A random sample of lines of at most `num_bytes` in all.

  Every line has the same probability of being in the sample. A pseudorandom
  number in [0, 1) is drawn for each line, and lines with a number below `share`
  are kept. `share` starts at 1 and is halved whenever the kept lines become too
  many. The draws do not depend on the text, so the sample is the same each
  time.

  Returns:
    The lines in their order, and the share of all lines that is sampled.
  """
  rng = random.Random(0)
  share, total, kept = 1.0, 0, []
  for line in lines:
    draw = rng.random()
    if draw >= share:
      continue
    kept.append((draw, line))
    total += len(line.encode())
    while total > num_bytes:
      share /= 2
      kept = [(d, kept_line) for d, kept_line in kept if d < share]
      total = sum(len(kept_line.encode()) for _, kept_line in kept)
  return [line for _, line in kept], share
