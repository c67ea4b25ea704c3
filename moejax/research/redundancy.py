"""Study 2: are DeepSeekMoE's experts less redundant than GShard's?

  python -m moejax.research.redundancy --workdir=runs/studies

It intervenes on every finished run of gshard and deepseek_moe, as
`moejax intervene` does, and writes the tables of
docs/studies/redundancy.md, redundancy.png and redundancy.json:

  mask_top   the most probable experts masked: DeepSeekMoE's Figure 4
  active     fewer active experts: its Figure 5
  no_shared  without the shared expert, and one routed expert in its place
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from moejax.core import command, exits, terminal
from moejax.research import figures, page, runs
from moejax.run import intervening

METHODS = ('gshard', 'deepseek_moe')
RATIOS = ('0', '1/16', '1/8', '3/16', '1/4')
# arXiv 2401.06066: loss on the Pile by share of experts masked (Figure 4; its
# GShard has experts of 1.5 times the width), by active experts (Figure 5), and
# without the shared expert (section 4.5).
FIGURE_4 = {
  'gshard': (1.808, 5.586, 7.518, 7.627, 7.721),
  'deepseek_moe': (1.808, 7.468, 8.196, 8.706, 9.071),
}
FIGURE_5 = {'3': 1.956, '4': 1.868, '5': 1.831, '6': 1.814, '7': 1.808}
FULL_GSHARD = 1.867
WITH_SHARED, WITHOUT_SHARED = 1.808, 2.414
# Loss by value of an intervention, of each run of a method.
Losses = dict[str, dict[str, list[float]]]


def main(argv: Sequence[str]) -> None:
  """Intervenes on the runs, and writes tables and figure."""
  flags = page.flags(__doc__)
  flags.add_argument(
    '--batches',
    type=command.number(int, 0),
    default=24,
    help='of each validation set; 0: all (default: %(default)s)',
  )
  args, overrides = command.parse(flags, argv)
  finished = runs.finished(args.sweep, args.workdir, overrides)
  groups = runs.by_method(finished, METHODS)
  study = page.Page(args.out, 'redundancy')
  masked = losses(groups, 'mask_top', RATIOS, args.batches)
  deep = {m: g for m, g in groups.items() if m == 'deepseek_moe'}
  active = losses(deep, 'active', [*FIGURE_5], args.batches)
  shared = losses(deep, 'no_shared', ('0', '1'), args.batches)
  unchanged = {
    method: [run.result['loss'] for run in group]
    for method, group in groups.items()
  }
  study.table('mask_top', mask_rows(masked), masked)
  study.table('active', active_rows(active, unchanged), active)
  study.table('no_shared', shared_rows(shared), shared)
  terminal.say('\n'.join(study.write(draw(masked, active, unchanged))))


def losses(
  groups: Mapping[str, Sequence[runs.FinishedRun]],
  what: str,
  values: Sequence[str],
  batches: int,
) -> Losses:
  """The mean loss over the validation sets under an intervention.

  Args:
    groups: runs by method.
    what: name of the intervention.
    values: its values.
    batches: batches of each validation set; 0 for all.

  Returns:
    By method and value, the loss of each run; the unchanged model is the value
    `unchanged`.
  """
  found: Losses = {}
  request = intervening.InterventionRequest(what, values, batches=batches)
  for method, group in groups.items():
    found[method] = {}
    for run in group:
      result = intervening.intervene(
        str(run.workdir), request, note=terminal.note
      )
      for row in result['rows']:
        if row['on'] == 'mean':
          value = row['value'] or intervening.UNCHANGED
          found[method].setdefault(value, []).append(row['score'])
  return found


def rises(by_value: Mapping[str, Sequence[float]], value: str) -> list[float]:
  """How far the loss of each run rises above that of its unchanged model."""
  return [
    changed - first
    for changed, first in zip(
      by_value[value], by_value[intervening.UNCHANGED], strict=True
    )
  ]


def mask_rows(masked: Losses) -> list[list[str]]:
  """Rises of the loss by the share of masked experts, beside the paper's."""
  rows = [['share masked']]
  for method in masked:
    rows[0] += [f'{method}: rise', 'paper']
  for number, ratio in enumerate(RATIOS):
    row = [ratio]
    for method, by_value in masked.items():
      published = FIGURE_4[method]
      row += [
        rise_cell(rises(by_value, ratio)),
        f'{published[number] - published[0]:+.3f}',
      ]
    rows.append(row)
  return rows


def active_rows(
  active: Losses, unchanged: Mapping[str, Sequence[float]]
) -> list[list[str]]:
  """Losses by the number of active routed experts, less GShard's."""
  rows = [['active routed experts', 'loss less gshard', 'paper']]
  base = unchanged.get('gshard')
  for method, by_value in active.items():
    for value, published in FIGURE_5.items():
      rise = '-'
      if base:
        rise = rise_cell([x - statistics.fmean(base) for x in by_value[value]])
      rows.append([
        f'{method}, {value}',
        rise,
        f'{published - FULL_GSHARD:+.3f}',
      ])
  return rows


def shared_rows(shared: Losses) -> list[list[str]]:
  """Rises of the loss without the shared expert."""
  rows = [['routed experts in its place', 'rise', 'paper']]
  published = {'0': '-', '1': f'{WITHOUT_SHARED - WITH_SHARED:+.3f}'}
  for by_value in shared.values():
    for value, paper in published.items():
      rows.append([value, rise_cell(rises(by_value, value)), paper])
  return rows


def rise_cell(values: Sequence[float]) -> str:
  """A mean with its sign, and the standard deviation over seeds."""
  text = f'{statistics.fmean(values):+.3f}'
  if len(values) > 1:
    text += f' ± {statistics.stdev(values):.3f}'
  return text


def draw(
  masked: Losses, active: Losses, unchanged: Mapping[str, Sequence[float]]
) -> Any:
  """Losses by share masked, the paper's beside, and by active experts."""
  whole, (here, paper, fewer) = figures.figure(3)
  shares = [number / 16 for number in range(len(RATIOS))]
  for colour, (method, by_value) in zip(
    figures.COLOURS, masked.items(), strict=False
  ):
    each = [
      [by_value[ratio][seed] for ratio in RATIOS]
      for seed in range(len(by_value[RATIOS[0]]))
    ]
    figures.line(here, shares, each, method, colour)
    paper.plot(shares, FIGURE_4[method], '.-', label=method, color=colour)
  for panel, title in ((here, 'here'), (paper, 'DeepSeekMoE, Figure 4')):
    panel.set_title(title)
    panel.set_xlabel('share of routed experts masked')
    panel.set_ylabel('loss')
    panel.legend(fontsize=8)
  counts = [*FIGURE_5]
  for by_value in active.values():
    each = [
      [by_value[count][seed] for count in counts]
      for seed in range(len(by_value[counts[0]]))
    ]
    places = [int(count) for count in counts]
    figures.line(fewer, places, each, 'deepseek_moe', 'C1')
  if 'gshard' in unchanged:
    mean = statistics.fmean(unchanged['gshard'])
    fewer.axhline(mean, linestyle='--', color='C0', label='gshard, all active')
  fewer.set_title('fewer active experts')
  fewer.set_xlabel('active routed experts')
  fewer.set_ylabel('loss')
  fewer.legend(fontsize=8)
  return whole


if __name__ == '__main__':
  exits.main(main)
