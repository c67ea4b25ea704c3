"""A search: runs whose values are chosen one after the other, by optuna.

  from moejax import sweep

  def get_sweep():
    run = sweep.run('configs/tiny.py:tiny', {'train.eval_every': 20})
    return sweep.search(
      run, {'opt.peak_lr': sweep.log_uniform(1e-4, 1e-1)}, num=20
    )

The runs are called NAME-trial=0 and so on. Values are chosen by a
tree-structured Parzen estimator (arXiv 2304.11127), which draws near values
that did well; the first are drawn at random. They depend on the seed, the index
of the run, and the losses so far. Runs that do badly are
pruned: at an evaluation on the validation sets a pruner compares a run with the
others, and ends it. This file says what is searched; `trials.py` has optuna.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from moejax import config as configs
from moejax.config import user_files
from moejax.core import errors, table
from moejax.sweep import space as spaces
from moejax.sweep.grid import SweepRun

Made = Callable[[Any, 'Search'], Any]  # of the module optuna and a search
# What ends bad runs, by its name: no rule; a run whose best loss is above the
# median of the others at the same step; and asynchronous successive halving
# (arXiv 1810.05934), where of the runs that come to each rung of steps a
# quarter goes on.
PRUNERS: Mapping[str, Made] = {
  'none': lambda optuna, _: optuna.pruners.NopPruner(),
  'median': lambda optuna, search: optuna.pruners.MedianPruner(
    n_startup_trials=search.startup, n_warmup_steps=search.warmup
  ),
  'halving': lambda optuna, search: optuna.pruners.SuccessiveHalvingPruner(
    min_resource=max(1, search.warmup)
  ),
}


@dataclasses.dataclass(frozen=True)
class Search:
  """What is searched, and how.

  Attributes:
    base: the run whose keys are searched.
    space: ranges by config key.
    num: the number of runs.
    pruner: a name of PRUNERS.
    startup: runs whose values are drawn at random; as many are finished before
      the median prunes one.
    warmup: steps before which no run is pruned; the first rung of halving.
    seed: of the sampler.
    place: where the sweep file says so: 'my_sweep.py:7'.
  """

  base: SweepRun
  space: Mapping[str, spaces.Range]
  num: int
  pruner: str
  startup: int
  warmup: int
  seed: int
  place: str = dataclasses.field(default='', compare=False)

  def run(self, index: int, values: Mapping[str, str]) -> SweepRun:
    """The run of an index, with these values of the searched keys."""
    name = f'{self.base.name}-trial={index}'
    overrides = {**self.base.overrides, **values}
    places = {**self.base.places, **dict.fromkeys(self.space, self.place)}
    return SweepRun(name, self.base.config, overrides, name, places)

  def identity(self) -> dict[str, str]:
    """What must stay the same when a search goes on: its space and rules."""
    rules = ('pruner', 'startup', 'warmup', 'seed')
    return {
      **{name: str(getattr(self, name)) for name in rules},
      **{key: str(values) for key, values in self.space.items()},
    }

  def check(self, overrides: Sequence[tuple[str, str]]) -> None:
    """Checks each range against its config key.

    Args:
      overrides: of the command, for all runs.

    Raises:
      InputError: a key that does not exist, or whose bounds a range leaves; an
        override of a searched key; a pruner that would see no evaluation.
    """
    for key, _ in overrides:
      if key in self.space:
        raise errors.InputError(
          f'--config.{key}: the sweep searches this key; leave the flag out'
        )
    base = {**self.base.overrides, **dict(overrides)}
    where = f'{self.place}: ' if self.place else ''
    for key, values in self.space.items():
      for text in values.ends():
        pairs = [*{**base, key: text}.items()]
        try:
          configs.load(self.base.config, pairs)
        except errors.InputError as e:
          raise errors.InputError(
            f'{where}search of {key}, value {text}: {e}'
          ) from e
    run = configs.load(self.base.config, [*base.items()])
    if self.pruner != 'none' and run.train.eval_every >= run.train.steps:
      raise errors.InputError(
        f'{where}pruner={self.pruner!r} compares runs at evaluations before '
        f'their end, and train.eval_every={run.train.eval_every} has none in '
        f"{run.train.steps} steps: set it lower, or pruner='none'"
      )


def search(
  runs: Sequence[SweepRun],
  space: Mapping[str, spaces.Range],
  num: int,
  *,
  pruner: str = 'median',
  startup: int = 5,
  warmup: int = 0,
  seed: int = 0,
) -> Search:
  """A search of the values with the smallest loss.

  Args:
    runs: one run in a list, such as `sweep.run` returns.
    space: ranges by config key; see `moejax.sweep.space`.
    num: how many runs.
    pruner: 'median', 'halving' or 'none'.
    startup: runs whose values are drawn at random; as many are finished before
      the median prunes one.
    warmup: steps before which no run is pruned; the first rung of halving.
    seed: of the sampler.

  Raises:
    InputError: an empty space, more than one run, an unknown name.
  """
  spaces.check(space, 'sweep.search')
  if len(runs) != 1:
    raise errors.InputError(
      f'sweep.search: {len(runs)} runs are given; it searches the keys of one: '
      'for several, write several sweep files'
    )
  table.lookup('pruner', PRUNERS, pruner)
  for name, value, least in (
    ('num', num, 1),
    ('startup', startup, 0),
    ('warmup', warmup, 0),
    ('seed', seed, 0),
  ):
    if not isinstance(value, int) or value < least:
      raise errors.InputError(
        f'sweep.search: {name}={value!r} must be a whole number from {least} on'
      )
  place = user_files.caller()
  return Search(runs[0], space, num, pruner, startup, warmup, seed, place)
