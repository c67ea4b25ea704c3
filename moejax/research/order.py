r"""Study 1: the order of DeepSeekMoE's Table 1, and its Figure 3.

  python -m moejax.research.order --workdir=runs/studies \
    --long=runs/studies_long --gates

It writes the tables of docs/studies/order.md, order.png and order.json:

  table_1   dense, hash, Switch, GShard and DeepSeekMoE beside the paper's
  figure_3  the steps from GShard to DeepSeekMoE
  equal_gates  the same steps, with gates of GShard's size at the start
  gates     each method and its twin with another sum of gates at the start
  gate_sums what the gates of these methods sum to, measured, with --gates
  long      five of them with six times the tokens, if --long is there
"""

import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from moejax.core import command, exits, log, terminal
from moejax.research import comparison, figures, page, runs, traced
from moejax.sweep import paired

LONG_SWEEP = 'configs/sweeps/studies_long.py'
# arXiv 2401.06066, Table 1: loss on the Pile, of 2B parameters and 100B tokens.
TABLE_1 = {
  'dense': 2.060,
  'hash': 1.932,
  'switch': 1.881,
  'gshard': 1.867,
  'deepseek_moe': 1.808,
}
# Its Figure 3: the mean of the bars of six benchmarks, over DeepSeekMoE's.
FIGURE_3 = {
  'gshard': 0.814,
  'shared_only': 0.910,
  'half_fine': 0.947,
  'deepseek_moe': 1.0,
}
# The same steps with the gates multiplied so that they start as GShard's.
EQUAL_GATES = {
  'gshard': 0.814,
  'shared_only_sum_1': 0.910,
  'half_fine_sum_1': 0.947,
  'deepseek_moe_sum_1': 1.0,
}
# Each method and its twin: what differs, and the sums of their gates at the
# start if all logits are equal.
TWINS = (
  ('deepseek_moe', 'deepseek_moe_sum_1', 'gates times 9', '1/9', '1'),
  ('half_fine', 'half_fine_sum_1', 'gates times 31/3', '3/31', '1'),
  ('shared_only', 'shared_only_sum_1', 'gates times 15', '1/15', '1'),
  ('top_2', 'top_2_small', 'gates not renormalised', '1', '1/8'),
  (
    'deepseek_moe',
    'deepseek_moe_sharp',
    'router drawn with 0.2 for 0.02',
    '1/9',
    'larger',
  ),
)
CURVES = ('dense', 'hash', 'gshard', 'deepseek_moe', 'deepseek_moe_sum_1')
EVALUATED = 'eval/loss'
Groups = Mapping[str, Sequence[runs.FinishedRun]]


def main(argv: Sequence[str]) -> None:
  """Compares the methods, and writes tables and figure."""
  flags = page.flags(__doc__)
  flags.add_argument('--long', help='workdir of the longer runs')
  flags.add_argument(
    '--gates',
    action='store_true',
    help='trace the first and the last checkpoint of the twins',
  )
  args, overrides = command.parse(flags, argv)
  groups = runs.by_method(runs.finished(args.sweep, args.workdir, overrides))
  study = page.Page(args.out, 'order')
  add_tables(study, groups)
  if args.gates:
    names = {name for one, twin, *_ in TWINS for name in (one, twin)}
    sums = {
      name: traced.gates(group)
      for name, group in groups.items()
      if name in names
    }
    study.table('gate_sums', sum_rows(sums), sums)
  if args.long:
    long = runs.by_method(runs.finished(LONG_SWEEP, args.long, overrides))
    bits = runs.bits_of(long)
    study.table('long', longer(groups, long), bits)
  terminal.say('\n'.join(study.write(draw(groups))))


def add_tables(study: page.Page, groups: Groups) -> None:
  """Adds the four tables of the runs of equal length."""
  bits = runs.bits_of(groups)
  # Table 1 has losses, Figure 3 scores: the best is the least or the largest.
  for name, published, largest_first in (
    ('table_1', TABLE_1, False),
    ('figure_3', FIGURE_3, True),
    ('equal_gates', EQUAL_GATES, True),
  ):
    chosen = {method: bits[method] for method in published if method in bits}
    test = comparison.compare(chosen)
    ranked = sorted(chosen, key=published.__getitem__, reverse=largest_first)
    counts = comparison.agreement(ranked, chosen, test)
    numbers = {
      'bits_per_byte': chosen,
      'pairs': counts,
      'test': None if test is None else test.rows(),
    }
    note = (
      f'Of {sum(counts.values())} pairs {counts["same"]} are in the order of '
      f'the paper, {counts["opposite"]} in the opposite order, and '
      f'{counts["undecided"]} closer than the seeds can tell (Tukey, '
      f'{comparison.LEVEL:.0%}).'
    )
    study.table(name, beside(published, groups), numbers, note)
  pairs = {
    (one, twin): difference(groups, one, twin) for one, twin, *_ in TWINS
  }
  study.table(
    'gates',
    gate_rows(groups, pairs),
    {f'{twin} - {one}': row for (one, twin), row in pairs.items()},
  )


def beside(published: Mapping[str, float], groups: Groups) -> list[list[str]]:
  """A row for each method of a table of the paper, in the paper's order."""
  rows = [['method', 'paper', 'here: bits/byte', 'n', 'peak rate']]
  for method, value in published.items():
    if method in groups:
      group = groups[method]
      rows.append([
        method,
        f'{value:.3f}',
        comparison.cell([run.bits for run in group]),
        str(len(group)),
        f'{group[0].rate:g}',
      ])
  return rows


def difference(groups: Groups, one: str, twin: str) -> dict[str, Any]:
  """Twin minus one in bits per byte, over the seeds that both have."""
  by_seed = [
    {run.seed: run.bits for run in groups.get(name, ())} for name in (twin, one)
  ]
  return paired.difference(*by_seed)


def gate_rows(
  groups: Groups, pairs: Mapping[tuple[str, str], Mapping[str, Any]]
) -> list[list[str]]:
  """A row for each pair of twins that has runs."""
  rows = [
    [
      'method',
      'what the twin changes',
      'sum of gates',
      "twin's",
      'bits/byte',
      "twin's",
      'twin minus method',
      'n',
    ]
  ]
  for one, twin, change, start, other in TWINS:
    if pairs[one, twin]['n']:
      rows.append([
        one,
        change,
        start,
        other,
        comparison.cell([run.bits for run in groups[one]]),
        comparison.cell([run.bits for run in groups[twin]]),
        page.signed(pairs[one, twin]),
        str(pairs[one, twin]['n']),
      ])
  return rows


def sum_rows(sums: Mapping[str, Mapping[str, float]]) -> list[list[str]]:
  """The measured sums of gates by method."""
  return [
    ['method', 'start', 'end'],
    *(
      [name, page.number(row['start']), page.number(row['end'])]
      for name, row in sums.items()
    ),
  ]


def longer(short: Groups, long: Groups) -> list[list[str]]:
  """Bits per byte after few and after many tokens."""
  rows = [['method', 'short', 'n', 'long', 'n']]
  for name, group in long.items():
    before = short.get(name, ())
    rows.append([
      name,
      comparison.cell([run.bits for run in before]),
      str(len(before)),
      comparison.cell([run.bits for run in group]),
      str(len(group)),
    ])
  return rows


def curve(workdir: epath.Path) -> dict[int, float]:
  """The validation loss by step, of a run."""
  records = log.read(workdir / 'metrics.jsonl')
  return {r['step']: r[EVALUATED] for r in records if EVALUATED in r}


def draw(groups: Groups) -> Any:
  """Scores of all methods, and the validation loss over steps, less dense's."""
  bits = runs.bits_of(groups)
  shown = [
    *dict.fromkeys([
      *TABLE_1,
      *FIGURE_3,
      *itertools.chain(*((one, twin) for one, twin, *_ in TWINS)),
    ])
  ]
  known = {name: bits[name] for name in shown if name in bits}
  whole, (left, right) = figures.figure(2, height=4.2)
  figures.dots(left, known, 'validation bits/byte (less is better)')
  means = {}
  for name in CURVES:
    if name in groups:
      curves = [curve(run.workdir) for run in groups[name]]
      means[name] = {
        step: statistics.fmean(c[step] for c in curves) for step in curves[0]
      }
  base = means.get('dense', {})
  for name, colour in zip(means, figures.COLOURS, strict=False):
    steps = [step for step in means[name] if step in base]
    right.plot(
      steps,
      [means[name][step] - base[step] for step in steps],
      '.-',
      label=name,
      color=colour,
    )
  right.set_xlabel('step')
  right.set_ylabel('validation loss less that of dense')
  right.legend(
    fontsize=8, ncol=3, loc='lower center', bbox_to_anchor=(0.5, 1.0)
  )
  return whole


if __name__ == '__main__':
  exits.main(main)
