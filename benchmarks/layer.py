"""Measures a layer with experts over a dense one of the same active width.

python -m benchmarks.layer
python -m benchmarks.layer --rows=64 --rounds=4

Prints the ratio of their times, forward and backward, at the standard shape.
The dense layer is a SwiGLU as wide as the experts that a token passes.
"""

from collections.abc import Sequence

import numpy as np

from benchmarks import parts, standard, timing
from moejax.core import command


def main(argv: Sequence[str]) -> None:
  """Reads the flags and measures."""
  flags = command.parser(__doc__)
  standard.add_flags(flags)
  args = standard.parse(flags, argv)
  shape = standard.shape(args)
  sides = [
    timing.Part(parts.MOE, *parts.experts(shape)),
    timing.Part(parts.DENSE, *parts.dense(shape)),
  ]
  seconds = timing.alternate(sides, args.rounds)
  print(f'{shape.heading(args.rounds)}\n{"":28s}  best ms  median ms')
  for side, times in zip(sides, seconds, strict=True):
    median = timing.ms(np.median(times))
    print(f'{side.name:28s} {timing.ms(min(times))}   {median}')
  best, each = timing.ratios(*seconds)
  print(
    f'experts over dense: {best:.2f} of best, {each:.2f} of each; '
    'aim: at most 1.3'
  )


if __name__ == '__main__':
  timing.main(main)
