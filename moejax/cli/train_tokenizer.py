r"""Trains a SentencePiece BPE vocabulary that gives any text back exactly.

The model that is shipped, `moejax/data/vocabs/minipile_8k.model`, was made from
the training splits of the five minipile domains by

  python -m moejax.cli.train_tokenizer --output=again.model

and is the same again each time (2 s). For a text of your own, whose flags are
those of training:

  python -m moejax.cli.train_tokenizer --config.data.files='/my/*.jsonl.gz' \
    --size=32000 --output=my_32k.model
  python -m moejax.main --config=configs/tiny.py \
    --config.data.vocab.path=my_32k.model --config.data.files=...

Ids: padding 0, EOS 1, unknown 2, no BOS (a segment starts with id 0). Bytes
stand in for characters without a piece; text is not normalised; newline is a
piece of its own, and spaces may form pieces, for code. Lines are learned from
apart, no space is put before a text, and none is lost.

Of a text that is larger than --sample_mb a sample of lines is learned from,
evenly spread and the same each time; so memory does not grow with the text.
"""

import argparse
import io
import pathlib
import random
import re
from collections.abc import Iterable, Iterator, Sequence

from moejax.config import Run
from moejax.core import command, config_tree, errors, exits, files
from moejax.data import build, long_text
from moejax.data.config import DataConfig

# Characters of a line: SentencePiece leaves longer ones out without a word, and
# four bytes are the most for a character.
_LONGEST_LINE = 2**18
_TRAINER_BYTES = 4 * _LONGEST_LINE


def train(lines: Iterable[str], size: int) -> bytes:
  """The serialised model of a BPE vocabulary of `size` pieces.

  Args:
    lines: to learn from, none of them longer than `lines_of` gives.
    size: how many pieces, with the three special ones, 256 bytes and newline.

  Raises:
    InputError: the texts are too few for so many pieces.
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
  """What SentencePiece says, without advice for flags that it has alone."""
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
  return f'no vocabulary of that size comes of this text: {reason}'


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
    # Where there is no space for a while, anywhere.
    at = line.rfind(' ', _LONGEST_LINE // 2, _LONGEST_LINE)
    at = _LONGEST_LINE if at < 0 else at
    yield line[:at]
    line = line[at:]
  if line:
    yield line


def sample(lines: Iterable[str], num_bytes: int) -> tuple[list[str], float]:
  """Lines of at most so many bytes in all, and which share of all they are.

  All lines, if they are no more. Else each is in with the same probability,
  drawn by its number: when there are too many, the half with the larger draws
  goes, and of later lines only those with smaller ones are taken.
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
      kept = [(d, one) for d, one in kept if d < share]
      total = sum(len(one.encode()) for _, one in kept)
  return [line for _, line in kept], share


def main(argv: Sequence[str]) -> None:
  """Trains on the text that the flags name, and writes the model."""
  args, overrides = command.parse(_flags(), argv)
  files.check_output(args.output, '--output')
  path = pathlib.Path(args.output)
  if path.exists() and not args.overwrite:
    raise errors.InputError(
      f'--output={args.output} is there already; take another, or replace it '
      'with --overwrite'
    )
  texts = build.texts(_data(args, overrides), _say)
  lines, share = sample(lines_of(texts), int(args.sample_mb * 1e6))
  if not lines:
    raise errors.InputError('the text is empty: there is nothing to learn from')
  if share < 1:
    _say(f'Learning from a sample of 1 in {1 / share:.0f} lines (--sample_mb).')
  model = train(lines, args.size)
  files.atomic_write_bytes(path, model)
  _say(f'{args.size} pieces, {len(model)} bytes: {path}')


def _flags() -> argparse.ArgumentParser:
  flags = command.parser(__doc__)
  add = flags.add_argument
  add('--files', default='', help='short for --config.data.files')
  add('--text_field', default='', help='short for --config.data.text_field')
  add(
    '--size',
    type=command.number(int, 261, 2**20),
    default=8192,
    help='how many pieces',
  )
  add('--output', required=True, help='where the model is written')
  add('--overwrite', action='store_true', help='if it is there already')
  add(
    '--sample_mb',
    type=command.number(float, 0.001, 10_000),
    default=100.0,
    help='of a larger text learn from so much (default: %(default)s)',
  )
  return flags


def _data(
  args: argparse.Namespace, overrides: Sequence[tuple[str, str]]
) -> DataConfig:
  """What the flags say of the text; the minipile if they say nothing."""
  short = [
    (f'data.{name}', value)
    for name in ('files', 'text_field')
    if (value := getattr(args, name))
  ]
  for key, _ in overrides:
    if not key.startswith('data.'):
      raise errors.InputError(
        f'--config.{key} is nothing to a vocabulary: keys of data.* alone are'
      )
  data = config_tree.override_all(Run(), [*short, *overrides]).data
  data.check()
  return data


def _say(line: str) -> None:
  print(line)


if __name__ == '__main__':
  exits.main(main)
