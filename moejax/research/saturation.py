"""Study 3: how routers settle, by softmax and by sigmoid.

  python -m moejax.research.saturation --workdir=runs/studies

It traces the kept checkpoints of every finished run of four methods, as
`moejax trace` does, measures them, and writes the tables of
docs/studies/saturation.md, saturation.png and saturation.json:

  saturation   shares of the final experts that a checkpoint chooses already
  change_rate  shares of experts that change from one tenth to the next
  utilisation  Jain's index of each layer at the end
  effects      sigmoid against softmax, and shared experts against none
"""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from moejax.analysis import MEASURES, published
from moejax.analysis.traces import Traces
from moejax.core import command, exits, terminal
from moejax.research import comparison, figures, page, runs, traced
from moejax.sweep import paired

# Methods, and their names in arXiv 2505.10860.
METHODS = {
  'smoe': 'softmax',
  'smoe_sigmoid': 'sigmoid',
  'v2': 'softmax, shared',
  'v3': 'sigmoid, shared',
}
# Their curves in analysis/published.json, for the models of 158M parameters.
PUBLISHED = {
  'smoe': 'SMoE 158M',
  'smoe_sigmoid': 'SMoE sigmoid 158M',
  'v2': 'DeepSeek-V2 158M',
  'v3': 'DeepSeek-V3 158M',
}
SHOWN = (0.05, 0.1, 0.3, 0.6, 0.9)  # shares of training, in the table
# A name, and two pairs of methods of which the second has it.
EFFECTS = (
  ('sigmoid for softmax', 'smoe', 'smoe_sigmoid'),
  ('sigmoid for softmax, shared experts', 'v2', 'v3'),
  ('shared experts, softmax', 'smoe', 'v2'),
  ('shared experts, sigmoid', 'smoe_sigmoid', 'v3'),
)


@dataclasses.dataclass(frozen=True)
class Settling:
  """How the routers of one run settle; means over layers unless said.

  Attributes:
    seed: of the run.
    saturation: by share of training, against the end.
    change_rate: by share of training, since a tenth before.
    jain: of each layer at the end.
  """

  seed: int
  saturation: dict[float, float]
  change_rate: dict[float, float]
  jain: list[float]


def main(argv: Sequence[str]) -> None:
  """Traces and measures the runs, and writes tables and figure."""
  flags = page.flags(__doc__)
  flags.add_argument(
    '--tokens',
    type=command.number(int, 1),
    default=traced.TOKENS,
    help='tokens that are traced (default: %(default)s)',
  )
  args, overrides = command.parse(flags, argv)
  finished = runs.finished(args.sweep, args.workdir, overrides)
  groups = runs.by_method(finished, [*METHODS])
  settled = {
    method: [settling(run, args.tokens) for run in group]
    for method, group in groups.items()
  }
  study = page.Page(args.out, 'saturation')
  numbers = {
    method: [dataclasses.asdict(run) for run in group]
    for method, group in settled.items()
  }
  study.table('saturation', saturation_rows(settled), numbers)
  study.table('change_rate', change_rows(settled), {})
  study.table('utilisation', jain_rows(settled), {})
  found = effects(settled)
  study.table('effects', effect_rows(found), found)
  terminal.say('\n'.join(study.write(draw(settled))))


def settling(run: runs.FinishedRun, tokens: int) -> Settling:
  """Traces the kept checkpoints of a run, and measures them."""
  return measured(run.seed, traced.traces(run, tokens=tokens))


def measured(seed: int, traces: Sequence[Any]) -> Settling:
  """The measures of the traces of one run, the last of its last step."""
  end = max(trace.step for trace in traces)
  tenths = [t for t in traces if t.step and t.step * 10 % end == 0]
  several = Traces.of(traces)
  overall = lambda rows, column: {
    row['step'] / end: row[column]
    for row in rows.values()
    if row['layer'] is None
  }
  last = [t for t in traces if t.step == end]
  return Settling(
    seed,
    overall(MEASURES['saturation'](several), 'topk'),
    overall(MEASURES['change_rate'](Traces.of(tenths)), 'set'),
    [row['jain'] for row in MEASURES['utilisation'](Traces.of(last)).values()],
  )


Settled = Mapping[str, Sequence[Settling]]


def paper(measure: str, method: str) -> dict[float, float]:
  """What the paper has of a method: percent by share of training.

  The first and the last point of its curve: saturation after one and after nine
  tenths, and the change rate of the second and of the last tenth.
  """
  points = published.curve(measure, PUBLISHED[method])
  return {percent / 100: 100 * value for percent, value in points}


def saturation_rows(settled: Settled) -> list[list[str]]:
  """Saturation by share of training, and the paper's first and last."""
  rows = [
    ['method', *(f'{share:.0%}' for share in SHOWN), 'paper, 10%', 'paper, 90%']
  ]
  for method, group in settled.items():
    rows.append([
      METHODS[method],
      *(percent_cell([run.saturation.get(x) for run in group]) for x in SHOWN),
      *(f'{value:.1f}' for value in paper('saturation', method).values()),
    ])
  return rows


def change_rows(settled: Settled) -> list[list[str]]:
  """The first and the last change rate, beside the paper's."""
  rows = [['method', '10% to 20%', 'paper', '90% to 100%', 'paper']]
  for method, group in settled.items():
    row = [METHODS[method]]
    for share, value in paper('change_rate', method).items():
      rates = [run.change_rate.get(share) for run in group]
      row += [percent_cell(rates), f'{value:.1f}']
    rows.append(row)
  return rows


def jain_rows(settled: Settled) -> list[list[str]]:
  """Jain's index of each layer at the end."""
  num = max(len(run.jain) for group in settled.values() for run in group)
  rows = [['method', *(f'layer {n}' for n in range(num))]]
  for method, group in settled.items():
    by_layer = zip(*(run.jain for run in group), strict=True)
    rows.append([
      METHODS[method],
      *(comparison.cell([*values]) for values in by_layer),
    ])
  return rows


def effects(settled: Settled) -> dict[str, dict[str, Any]]:
  """By effect and measure, the difference over the seeds that both have."""
  measures = {
    'saturation at 30%': lambda run: run.saturation.get(0.3),
    'last change rate': lambda run: run.change_rate.get(1.0),
    "Jain's index": lambda run: statistics.fmean(run.jain),
  }
  return {
    effect: {
      name: paired.difference(
        *(
          {run.seed: value(run) for run in settled[method]}
          for method in (other, one)
        )
      )
      for name, value in measures.items()
    }
    for effect, one, other in EFFECTS
    if one in settled and other in settled
  }


def effect_rows(found: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
  """The effects as a table."""
  names = [*next(iter(found.values()))] if found else []
  return [
    ['effect', *names],
    *(
      [effect, *(page.signed(row[name]) for name in names)]
      for effect, row in found.items()
    ),
  ]


def percent_cell(values: Sequence[float | None]) -> str:
  """Shares of several seeds in percent; '-' where one is not known."""
  known = [100 * value for value in values if value is not None]
  return comparison.cell(known, 1) if len(known) == len(values) else '-'


def draw(settled: Settled) -> Any:
  """Saturation and change rate over training, and Jain's index by layer."""
  whole, (left, middle, right) = figures.figure(3)
  for colour, (method, group) in zip(
    figures.COLOURS, settled.items(), strict=False
  ):
    panels = (
      (left, 'saturation', [run.saturation for run in group]),
      (middle, 'change_rate', [run.change_rate for run in group]),
    )
    for panel, measure, curves in panels:
      shares = sorted(curves[0])
      each = [[100 * curve[x] for x in shares] for curve in curves]
      figures.line(panel, shares, each, METHODS[method], colour)
      printed = paper(measure, method)
      panel.plot([*printed], [*printed.values()], 'x', color=colour)
    layers = range(len(group[0].jain))
    each = [run.jain for run in group]
    figures.line(right, layers, each, METHODS[method], colour)
  left.set_ylabel('saturation, % (x: paper, 158M)')
  middle.set_ylabel('change rate, % (x: paper, 158M)')
  right.set_ylabel("Jain's index at the end")
  for panel in (left, middle):
    panel.set_xlabel('share of training')
  right.set_xlabel('layer')
  right.set_xticks(range(max(len(g[0].jain) for g in settled.values())))
  left.legend(fontsize=8)
  return whole


if __name__ == '__main__':
  exits.main(main)
