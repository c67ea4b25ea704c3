"""Equal budgets: as many steps for each run as cost the same."""

import functools
from collections.abc import Sequence

from moejax import config as configs
from moejax.core import errors, table
from moejax.plan import sight_count
from moejax.sweep import grid
from moejax.sweep.grid import SweepRun

STEPS, SEED = 'train.steps', 'seed'


def equal_flops(
  runs: Sequence[SweepRun], of: str | None = None
) -> list[SweepRun]:
  """The same runs, with the steps that cost the FLOPs of one of them.

  FLOPs are those of the whole training as `moejax count` counts them, and the
  steps of each run are the nearest whole number. All else stays as it is, so
  set before what the FLOPs depend on: widths, layers, experts, `batch_size`,
  `sequence_length`. Example, where a step of `wide` costs twice that of `tiny`:

    runs = sweep.run('configs/tiny.py:tiny', {'train.steps': 300})
    runs += sweep.run('wide.py')
    sweep.equal_flops(runs)             300 steps of tiny, 150 of wide

  Args:
    runs: of any configs.
    of: name, or group, of the run whose FLOPs all others get; None for the
      first of them.

  Raises:
    InputError: no run is called so, a config has an error, or a single step of
      a run costs more than all of the training.
  """
  known = {name for run in runs for name in (run.name, run.group)}
  if of is not None and of not in known:
    raise table.unknown('run in sweep.equal_flops', of, known)
  if not runs:
    return []
  first = next(run for run in runs if of in (None, run.name, run.group))
  # Each config once; runs that differ in their seed cost the same.
  cost = functools.cache(_cost)
  steps, step = cost(first.group, first.config, _key(first))
  budget = steps * step
  equal = []
  for run in runs:
    _, step = cost(run.group, run.config, _key(run))
    steps_of_run = round(budget / step)
    if not steps_of_run:
      raise errors.InputError(
        f'sweep.equal_flops: a step of {run.name!r} costs {step:.3g} FLOPs, '
        f'more than all {steps} steps of {first.name!r}, {budget:.3g}; train '
        'that one for longer'
      )
    equal += grid.change([run], {STEPS: steps_of_run})
  return equal


def _key(run: SweepRun) -> tuple[tuple[str, str], ...]:
  """The overrides on which the cost of a run depends."""
  return tuple((k, v) for k, v in run.overrides.items() if k != SEED)


def _cost(
  name: str, config: str, overrides: tuple[tuple[str, str], ...]
) -> tuple[int, float]:
  """Steps of a run, and FLOPs of one of them."""
  try:
    loaded = configs.load(config, overrides)
  except errors.InputError as e:
    raise errors.InputError(f'run {name!r}: {e}') from e
  steps = loaded.train.steps
  return steps, sight_count.training_flops(loaded) / steps
