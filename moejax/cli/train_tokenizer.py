"""Trains a SentencePiece BPE vocabulary that gives any text back exactly.

The model that is shipped, `moejax/data/vocabs/minipile_8k.model`, was made from
the training splits of the five minipile domains by

  python -m moejax.cli.train_tokenizer

and is the same again each time (2 s). For one of your own texts:

  python -m moejax.cli.train_tokenizer --files='/my/data/*.jsonl.gz' \
    --size=32000 --output=my_32k.model
  python -m moejax.main --config=configs/tiny.py \
    --config.data.vocab.path=my_32k.model --config.data.files=...

Ids: padding 0, EOS 1, unknown 2, no BOS (a segment starts with id 0). Bytes
stand in for characters without a piece; text is not normalised; newline is a
piece of its own, and spaces may form pieces, for code. Lines are learned from
apart, no space is put before a text, and none is lost.
"""

import io
import pathlib
from collections.abc import Iterable, Iterator, Sequence

from moejax.cli import command
from moejax.core import errors
from moejax.data import files, mixtures, tasks, vocab


def train(texts: Iterable[str], size: int) -> bytes:
  """The serialised model of a BPE vocabulary of `size` pieces.

  Raises:
    InputError: the texts are too few for so many pieces.
  """
  import sentencepiece

  model = io.BytesIO()
  try:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=_lines(texts),
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
      max_sentence_length=1 << 20,
      num_threads=1,
      minloglevel=2,
    )
  except RuntimeError as e:
    raise errors.InputError(
      f'--size={size}: no vocabulary of that size comes of this text: '
      f'{str(e).rpartition("]")[2].strip()}'
    ) from None
  return model.getvalue()


def _lines(texts: Iterable[str]) -> Iterator[str]:
  """Longer "sentences" than max_sentence_length would be left out."""
  for text in texts:
    yield from (line for line in text.split('\n') if line)


def _minipile() -> Iterator[str]:
  """The training documents of all its domains, one domain after the other."""
  for name in mixtures.MIXTURES['minipile'].tasks:
    yield from tasks.TASKS[name].texts('train')


def main(argv: Sequence[str]) -> None:
  """Trains on the given files, or on the minipile, and writes the model."""
  flags = command.parser(f'{__doc__}\n{command.__doc__}')
  flags.add_argument('--files', default='', help='as data.files; minipile')
  flags.add_argument('--text_field', default='text', help='as data.text_field')
  flags.add_argument('--size', type=int, default=8192, help='how many pieces')
  flags.add_argument('--output', default=str(vocab.SHIPPED), help='the model')
  args = flags.parse_args(argv)
  if args.files and args.output == str(vocab.SHIPPED):
    raise errors.InputError('--files needs --output: where to write the model')
  if args.files:
    texts = files.Files(args.files, text_field=args.text_field).all_texts()
  else:
    texts = _minipile()
  model = train(texts, args.size)
  path = pathlib.Path(args.output)
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model)
  except OSError as e:
    raise errors.InputError(
      f'--output={args.output!r} cannot be written: {e.strerror}'
    ) from None
  print(f'{args.size} pieces, {len(model)} bytes: {path}')


if __name__ == '__main__':
  command.main(main)
