"""Study 4: LibMoE's algorithms, with seeds and error bars.

  python -m moejax.research.algorithms --workdir=runs/studies

It writes the tables of docs/studies/algorithms.md, algorithms.png and
algorithms.json: the scores of seven algorithms beside the perplexities that
LibMoE prints (arXiv 2411.00918, Table 2; one run each), and a test of whether
they differ by more than their seeds.
"""

from collections.abc import Sequence
from typing import Any

from moejax.core import command, exits, terminal
from moejax.research import comparison, figures, page, runs

# Perplexity of the models of 0.15B and 0.68B parameters.
PUBLISHED = {
  'smoe': ('SMoE', 13.63, 9.51),
  'xmoe': ('XMoE', 13.98, 9.66),
  'smoe_sigmoid': ('σ-MoE', 13.61, 9.46),
  'v2': ('SharedE-V2', 13.49, 9.52),
  'v3': ('SharedE-V3', 13.42, 9.49),
  'tc_moe': ('TC-MoE', 13.51, 9.38),
  'moe_pp': ('MoE++', 13.54, 9.38),
}
Groups = dict[str, list[runs.FinishedRun]]


def main(argv: Sequence[str]) -> None:
  """Compares the algorithms, and writes tables and figure."""
  args, overrides = command.parse(page.flags(__doc__), argv)
  finished = runs.finished(args.sweep, args.workdir, overrides)
  groups = runs.by_method(finished, [*PUBLISHED])
  bits = runs.bits_of(groups)
  test = comparison.compare(bits)
  study = page.Page(args.out, 'algorithms')
  study.table('libmoe', scores(groups), bits)
  study.table(
    'libmoe_test',
    verdict(bits, test),
    None if test is None else test.rows(),
    note=differing(test),
  )
  ordered = dict(sorted(bits.items(), key=lambda item: sum(item[1])))
  whole, (panel,) = figures.figure(1)
  named = {PUBLISHED[name][0]: values for name, values in ordered.items()}
  figures.dots(panel, named, 'validation bits/byte (less is better)')
  terminal.say('\n'.join(study.write(whole)))


def scores(groups: Groups) -> list[list[str]]:
  """The table of scores, in LibMoE's order."""
  rows = [
    [
      'algorithm',
      'LibMoE, 0.15B: perplexity',
      '0.68B',
      'here: bits/byte',
      'n',
      'peak rate',
      'load max/mean',
      'dropped',
    ]
  ]
  for name, group in groups.items():
    title, small, large = PUBLISHED[name]
    mean = lambda key, group=group: _mean([run.result[key] for run in group])
    rows.append([
      title,
      f'{small:.2f}',
      f'{large:.2f}',
      comparison.cell([run.bits for run in group]),
      str(len(group)),
      f'{group[0].rate:g}',
      page.number(mean('load_max'), 2),
      page.percent(mean('dropped')),
    ])
  return rows


def verdict(
  bits: dict[str, list[float]], test: comparison.Comparison | None
) -> list[list[str]]:
  """The test of the differences as a table of one column of values."""
  rows = [['question', 'answer']]
  if test is None:
    return [*rows, ['do they differ', 'two seeds are needed']]
  best, worst = min(bits, key=_of(bits)), max(bits, key=_of(bits))
  names = {name: PUBLISHED[name][0] for name in bits}
  return [
    *rows,
    ['standard deviation over seeds, pooled', f'{test.spread:.4f}'],
    [
      f'best to worst mean ({names[best]} to {names[worst]})',
      f'{_of(bits)(worst) - _of(bits)(best):.4f}',
    ],
    ['F, variance between methods over that within', f'{test.ratio:.2f}'],
    ['p of such an F if all were the same', page.probability(test.p)],
    [
      f'pairs that differ (Tukey, {comparison.LEVEL:.0%})',
      f'{test.num_differing()} of {len(test.pairs)}',
    ],
  ]


def differing(test: comparison.Comparison | None) -> str:
  """A line that names the pairs that differ; empty without a test."""
  if test is None:
    return ''
  pairs = [
    f'{PUBLISHED[one][0]} and {PUBLISHED[other][0]}'
    for one, other in test.pairs
    if test.differ(one, other)
  ]
  return f'Pairs that differ: {", ".join(pairs) or "none"}.'


def _of(bits: dict[str, list[float]]) -> Any:
  return lambda name: sum(bits[name]) / len(bits[name])


def _mean(values: Sequence[float | None]) -> float | None:
  known = [value for value in values if value is not None]
  return sum(known) / len(known) if known else None


if __name__ == '__main__':
  exits.main(main)
