"""Draws scenes, and writes conversations about them, to train on.

  moejax scenes --to=scenes

Images of 48 x 48 pixels have up to three coloured shapes in nine cells. The
conversations describe them, count them, and ask for colours, shapes and
relations. The answers of a question are equally frequent, and one of eight
scenes is held out whole. The same seed gives the same files. See
docs/vision_training.md.
"""

import pathlib
from collections.abc import Sequence

from moejax.core import command, exits
from moejax.data.scenes import sets


def main(argv: Sequence[str]) -> None:
  """Reads the flags, writes the files, and says where they are."""
  flags = command.parser(__doc__)
  add, number = flags.add_argument, command.number(int, 5, 10**6)
  add('--to', required=True, help='the folder to write')
  add('--train', type=number, default=8000, help='conversations to train on')
  add('--held', type=number, default=1000, help='conversations held out')
  add('--seed', type=command.number(int, 0, 2**32 - 1), default=0)
  args = command.parse_alone(flags, argv)
  new = sets.write(pathlib.Path(args.to), args.train, args.held, args.seed)
  print(
    f'{args.to} has {args.train} conversations to train on and {args.held} '
    f'about other scenes{"" if new else "; they were there already"}.'
  )


if __name__ == '__main__':
  exits.main(main, keeps=False)
