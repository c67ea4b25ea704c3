r"""Trains a SentencePiece BPE vocabulary that gives any text back exactly.

  moejax train_tokenizer --output=again.model
  moejax train_tokenizer --config.data.files='/my/*.jsonl.gz' \
    --size=32000 --output=my_32k.model
  moejax train --config=tiny --workdir=runs/my_32k \
    --config.data.vocab.path=my_32k.model \
    --config.data.files='/my/*.jsonl.gz'

The first command takes 2 s and makes the model that is shipped,
`moejax/data/vocabs/minipile_8k.model`, from the training splits of the five
minipile domains. The others are for a text of your own, with the flags of
training.

Ids: padding 0, EOS 1, unknown 2, no BOS (a segment starts with id 0). Bytes
stand in for characters without a piece; text is not normalised; newline is a
piece of its own, and spaces may form pieces, for code. Lines are learned from
apart, no space is put before a text, and none is lost.

Of a text larger than --sample_mb only a sample of lines is used, evenly spread
and the same each time, so that memory does not grow with the text.
"""

import argparse
import pathlib
from collections.abc import Sequence

from moejax.config import Run
from moejax.core import command, config_tree, errors, exits, files
from moejax.data import build, train_tokenizer
from moejax.data.config import DataConfig


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
  texts = build.texts(_data(args, overrides), print)
  lines, share = train_tokenizer.sample(
    train_tokenizer.lines_of(texts), int(args.sample_mb * 1e6)
  )
  if not lines:
    raise errors.InputError('the text is empty: there is nothing to learn from')
  if share < 1:
    print(f'Learning from 1 in {1 / share:.0f} lines (--sample_mb).')
  model = train_tokenizer.train(lines, args.size)
  files.atomic_write_bytes(path, model)
  print(f'{args.size} pieces, {len(model)} bytes: {path}')


def _flags() -> argparse.ArgumentParser:
  flags = command.parser(__doc__)
  add = flags.add_argument
  add('--files', default='', help='short for --config.data.files')
  add('--text_field', default='', help='short for --config.data.text_field')
  pieces = command.number(int, 261, 2**20)
  add('--size', type=pieces, default=8192, help='how many pieces')
  add('--output', required=True, help='where the model is written')
  add('--overwrite', action='store_true', help='if it is there already')
  size = command.number(float, 0.001, 10_000)
  most = 'learn from at most so many MB of text (default: %(default)s)'
  add('--sample_mb', type=size, default=100.0, help=most)
  return flags


def _data(
  args: argparse.Namespace, overrides: Sequence[tuple[str, str]]
) -> DataConfig:
  """The config of the text that the flags name; the minipile by default."""
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
  data.check_used()
  return data


if __name__ == '__main__':
  exits.main(main, keeps=False)
