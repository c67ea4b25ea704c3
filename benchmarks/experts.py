"""Measures the time per token by number of experts, at constant active width.

python -m benchmarks.experts
python -m benchmarks.experts --rows=64 --rounds=4 --png=experts.png

Prints the time of a layer with 8 to 256 experts over that of 16, forward and
backward, and with --png draws the curve.
"""

import importlib.util
from collections.abc import Sequence

import numpy as np

from benchmarks import parts, standard, timing
from moejax.core import command, errors, files

# Numbers of experts, and the one that the others are compared with.
COUNTS, BASE = (8, 16, 32, 64, 128, 256), 16
# Most times that the largest number may take, at the standard shape.
AIM = 2.0


def main(argv: Sequence[str]) -> None:
  """Reads the flags, measures, and draws."""
  flags = command.parser(__doc__)
  standard.add_flags(flags)
  flags.add_argument('--png', help='a file to draw the curve in')
  args = standard.parse(flags, argv)
  if args.png is not None:
    _check_png(args.png)
  shape = standard.shape(args)
  sides = [
    timing.Part(str(count), *parts.experts(shape.with_moe(num_experts=count)))
    for count in COUNTS
  ]
  seconds = timing.alternate(sides, args.rounds)
  base = seconds[COUNTS.index(BASE)]
  print(
    f'{shape.heading(args.rounds)}\n'
    f'experts  best ms  median ms  us a token  over {BASE}: of best  of each'
  )
  for count, times in zip(COUNTS, seconds, strict=True):
    best, each = timing.ratios(times, base)
    print(
      f'{count:7d} {timing.ms(min(times))}   {timing.ms(np.median(times))}   '
      f'{min(times) / shape.tokens * 1e6:9.2f}  {best:16.2f}  {each:7.2f}'
    )
  best, each = timing.ratios(seconds[-1], base)
  print(
    f'from {BASE} to {COUNTS[-1]} experts: {best:.2f} times of best, '
    f'{each:.2f} of each; aim: at most {AIM:g}'
  )
  if args.png:
    _draw([min(times) / shape.tokens * 1e6 for times in seconds], args.png)
    print(f'drawn in {args.png}')


def _check_png(path: str) -> None:
  """Raises InputError if the picture could not be written."""
  if importlib.util.find_spec('matplotlib') is None:
    raise errors.InputError(
      f"--png={path} needs matplotlib: pip install 'moejax[plot]', or leave it "
      'out'
    )
  files.check_output(path, '--png')
  if not path.endswith('.png'):
    raise errors.InputError(f'--png={path} must end in .png')


def _draw(micros: list[float], path: str) -> None:
  """The curve: microseconds per token over the number of experts."""
  import matplotlib.figure

  figure = matplotlib.figure.Figure(figsize=(6, 4), layout='constrained')
  axes = figure.subplots()
  axes.plot(COUNTS, micros, marker='o', label='MoE layer, best round')
  aim = AIM * micros[COUNTS.index(BASE)]
  axes.axhline(
    aim, linestyle='--', color='gray', label=f'{AIM:g} times {BASE} experts'
  )
  axes.set_xscale('log', base=2)
  axes.set_xticks(COUNTS, map(str, COUNTS))
  axes.set_ylim(bottom=0)
  axes.set_xlabel('experts, at the same active width')
  axes.set_ylabel('microseconds per token, forward and backward')
  axes.legend(loc='lower right')
  figure.savefig(path, dpi=150)


if __name__ == '__main__':
  timing.main(main)
