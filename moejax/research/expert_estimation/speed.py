"""Measures the theory lab: seconds for each setting of a theorem.

  python -m moejax.research.expert_estimation.speed
  python -m moejax.research.expert_estimation.speed --trials=5 --sizes=100,300

Each of the four settings of arXiv 2505.10860 (appendix G.1) is estimated as in
`python -m moejax.research.expert_estimation --study=deepseekmoe`: by default 40
trials at each of ten sizes from 100 to 100,000. Nothing is written. Printed are
for each setting the seconds and the processor's seconds, compilation included,
iterations of a trial, the share of trials that converged, and nanoseconds of
the processor for one sample in one iteration; and the sums. The ratio is that
of the processor's seconds over 1,200, which are ten minutes of two cores.
"""

import dataclasses
import time
from collections.abc import Sequence

import numpy as np

from moejax.core import columns, command, exits, terminal
from moejax.research.expert_estimation import __main__ as lab
from moejax.research.expert_estimation import results, trials
from moejax.research.expert_estimation.studies import STUDIES, Case
from moejax.research.expert_estimation.trials import Request

# Ten minutes of two cores, in seconds of a processor.
BUDGET = 1200.0
HEAD = (
  'setting',
  'seconds',
  'processor seconds',
  'iterations',
  'converged',
  'ns a sample',
)


@dataclasses.dataclass(frozen=True)
class Cost:
  """What one setting takes.

  Attributes:
    seconds: by the clock.
    processor: seconds of all threads.
    iterations: mean of all trials.
    converged: share of trials.
    passes: samples times iterations, over all trials.
  """

  seconds: float
  processor: float
  iterations: float
  converged: float
  passes: float


def main(argv: Sequence[str]) -> None:
  """Reads the flags and measures."""
  flags = command.parser(__doc__)
  lab.add_samples(flags)
  args = command.parse_alone(flags, argv)
  cases = STUDIES['deepseekmoe'].cases
  request = Request(trials=args.trials, sizes=lab.sizes_of(args.sizes))
  for case in cases.values():
    case.check_sizes([*request.sizes])
  costs = {}
  for name, case in cases.items():
    costs[name] = measured(case, request)
    terminal.note(f'{name}: {costs[name].seconds:.1f} s')
  terminal.say('\n'.join(columns.aligned(rows_of(costs))))
  processor = sum(cost.processor for cost in costs.values())
  terminal.say(f'processor seconds / {BUDGET:g}: {processor / BUDGET:.3f}')


def measured(case: Case, request: Request) -> Cost:
  """Estimates one case at all sizes."""
  began, cpu_began = time.monotonic(), time.process_time()
  found = []
  reference, _ = results.nearest(case, request)
  for size in request.sizes:
    name = results.truth_key(case)
    part = trials.run(case, name, size, request, reference)
    found += [(size, row) for row in part['rows']]
  return Cost(
    seconds=time.monotonic() - began,
    processor=time.process_time() - cpu_began,
    iterations=float(np.mean([row['iterations'] for _, row in found])),
    converged=float(np.mean([row['converged'] for _, row in found])),
    passes=float(sum(size * row['iterations'] for size, row in found)),
  )


def rows_of(costs: dict[str, Cost]) -> list[list[str]]:
  """The table: a row for each setting, and one for all."""
  whole = list(costs.values())
  both = Cost(
    seconds=sum(cost.seconds for cost in whole),
    processor=sum(cost.processor for cost in whole),
    iterations=float(np.mean([cost.iterations for cost in whole])),
    converged=float(np.mean([cost.converged for cost in whole])),
    passes=sum(cost.passes for cost in whole),
  )
  return [
    [*HEAD],
    *(
      [
        name,
        f'{cost.seconds:.1f}',
        f'{cost.processor:.1f}',
        f'{cost.iterations:.0f}',
        f'{cost.converged:.0%}',
        f'{1e9 * cost.processor / cost.passes:.0f}',
      ]
      for name, cost in [*costs.items(), ('all', both)]
    ),
  ]


if __name__ == '__main__':
  exits.main(main)
