r"""The best learning rate of each method, by one run for each rate.

  moejax sweep --sweep=studies_rates \
    --workdir=runs/studies --processes=2
  python -m moejax.research.learning_rates --workdir=runs/studies

It writes configs/sweeps/studies_best_rates.py, from which
configs/sweeps/studies.py takes the rates, and the table in
docs/studies/learning_rates.md. A method whose runs are not all finished is
shown, but no rate is chosen for it.
"""

import collections
import pathlib
from collections.abc import Mapping, Sequence

from moejax.core import command, exits, files, terminal
from moejax.research import page, runs

RATES = 'configs/sweeps/studies_rates.py'
BEST = 'studies_best_rates.py'
TEXT = '''"""The best learning rate of each method of studies.py.

Written by moejax.research.learning_rates.
"""

BEST_RATES = {rates}
'''


def main(argv: Sequence[str]) -> None:
  """Chooses a rate for each method, and writes rates and table."""
  flags = page.flags(__doc__)
  flags.set_defaults(sweep=RATES)
  args, overrides = command.parse(flags, argv)
  finished = runs.finished(args.sweep, args.workdir, overrides)
  bits = table(finished)
  num_rates = max(len(by_rate) for by_rate in bits.values())
  best = choose(bits, num_rates)
  beside = pathlib.Path(args.sweep).with_name(BEST)
  files.atomic_write_text(beside, text_of(best))
  study = page.Page(args.out, 'learning_rates')
  study.table('learning_rates', cells(bits, best), bits)
  terminal.say('\n'.join(study.write()))


def table(
  finished: Sequence[runs.FinishedRun],
) -> dict[str, dict[float, float]]:
  """Bits per byte by method and rate, of the first seed of each."""
  bits: dict[str, dict[float, float]] = collections.defaultdict(dict)
  for run in sorted(finished, key=lambda r: r.seed):
    bits[run.method].setdefault(run.rate, run.bits)
  return {name: dict(sorted(by.items())) for name, by in bits.items()}


def choose(
  bits: Mapping[str, Mapping[float, float]], num_rates: int
) -> dict[str, float]:
  """The rate with the fewest bits, for methods that have all rates.

  Of rates with the same bits, the smallest.
  """
  return {
    name: min(by_rate, key=lambda rate: (by_rate[rate], rate))
    for name, by_rate in bits.items()
    if len(by_rate) == num_rates
  }


def text_of(best: Mapping[str, float]) -> str:
  """The Python file with the chosen rates."""
  lines = ''.join(f'  {name!r}: {rate!r},\n' for name, rate in best.items())
  return TEXT.format(rates=f'{{\n{lines}}}' if lines else '{}')


def cells(
  bits: Mapping[str, Mapping[float, float]], best: Mapping[str, float]
) -> list[list[str]]:
  """The rows of the table, with the best rate in bold."""
  rates = sorted({rate for by_rate in bits.values() for rate in by_rate})
  rows = [['method', *(f'{rate:g}' for rate in rates)]]
  for name, by_rate in bits.items():
    row = [name]
    for rate in rates:
      text = page.number(by_rate.get(rate))
      row.append(f'**{text}**' if best.get(name) == rate else text)
    rows.append(row)
  return rows


if __name__ == '__main__':
  exits.main(main)
