"""Lists of runs and the combinators that build them, for sweep files.

  from moejax import sweep

  def get_sweep():
    runs = sweep.each('configs/zoo.py', ['switch', 'gshard'])
    runs = sweep.product(runs, {'opt.peak_lr': [1e-3, 3e-3]})
    return sweep.seeds(sweep.change(runs, {'train.steps': 300}), 3)

A sweep file is Python with a function `get_sweep()`, which returns a list of
runs; lists are joined by `+`. Every combinator takes runs and returns runs.
Keys and values are those of `--config.<key>=<value>` and are checked as
strictly. All overrides of a run are applied together, after its config file. If
two combinators set the same key, the value of the outer one is used; a flag of
the command replaces both. A run without an override of `seed` has the seed 0.
"""

import dataclasses
import pathlib
import random
from collections.abc import Mapping, Sequence
from typing import Any

from moejax import config as configs
from moejax.config import user_files
from moejax.core import errors
from moejax.sweep import space as spaces


@dataclasses.dataclass(frozen=True)
class SweepRun:
  """One run of a sweep.

  Runs that differ in their seed alone share the name of their group, for which
  the table has a row with mean and spread.
  """

  name: str  # that of its folder in the sweep's workdir
  config: str  # path[:arg] of a config file, as for --config
  overrides: Mapping[str, str]  # as for --config.<key>=<text>
  group: str
  # By key of the overrides, and by '' for the run itself, where the sweep file
  # says so: 'my_sweep.py:7'.
  places: Mapping[str, str] = dataclasses.field(
    default_factory=dict, compare=False
  )

  @property
  def flags(self) -> list[str]:
    """The overrides as flags of a command."""
    return [f'--config.{key}={text}' for key, text in self.overrides.items()]

  def place(self, error: str) -> str:
    """Where the sweep file has what an error is about; '' if not known."""
    # An error names its key first, and then perhaps others.
    named = sorted((k for k in self.overrides if k in error), key=error.find)
    places = (self.places.get(key, '') for key in (*named, ''))
    return next(filter(None, places), '')


def run(
  config: str, overrides: Mapping[str, Any] | None = None, name: str = ''
) -> list[SweepRun]:
  """One run of a config file, `path[:arg]`, in a list.

  By default its name is the text behind the colon, or the name of the file.
  """
  path, _, arg = config.partition(':')
  name = name or configs.SEPARATOR.sub('-', arg) or pathlib.PurePath(path).stem
  one = SweepRun(name, config, {}, name, {'': user_files.caller()})
  return change([one], {'seed': 0, **(overrides or {})})


def each(path: str, args: Sequence[str]) -> list[SweepRun]:
  """The same config file with each of the arguments, `path:arg`."""
  return [one for arg in args for one in run(f'{path}:{arg}')]


def change(
  runs: Sequence[SweepRun], overrides: Mapping[str, Any]
) -> list[SweepRun]:
  """The same runs with these values too; names stay."""
  texts = {key: spaces.text_of(value) for key, value in overrides.items()}
  places = dict.fromkeys(texts, user_files.caller())
  return [
    dataclasses.replace(
      one,
      overrides={**one.overrides, **texts},
      places={**one.places, **places},
    )
    for one in runs
  ]


def product(
  runs: Sequence[SweepRun], values: Mapping[str, Sequence[Any]]
) -> list[SweepRun]:
  """Every run with every combination of the values.

  The last word of each key and its value are added to the name. Example, a run
  `switch` and {'opt.peak_lr': [0.001, 0.003]}:
    switch-peak_lr=0.001 and switch-peak_lr=0.003
  """
  for key, options in values.items():
    word = key.rpartition('.')[2]
    runs = [
      SweepRun(
        name=f'{one.name}-{word}={text}',
        config=one.config,
        overrides={**one.overrides, key: text},
        group=f'{one.group}-{word}={text}',
        places={**one.places, key: user_files.caller()},
      )
      for one in runs
      for text in map(spaces.text_of, options)
    ]
  return [*runs]


def seeds(runs: Sequence[SweepRun], num: int) -> list[SweepRun]:
  """Every run with the seeds 0 to num - 1, all runs of a seed together.

  So all runs can be compared after the first seed, and the programs of later
  seeds are compiled already. Example, runs `a` and `b` and num 2:
    a-seed=0, b-seed=0, a-seed=1, b-seed=1
  """
  return [
    dataclasses.replace(one, name=f'{one.name}-seed={seed}')
    for seed in range(num)
    for one in change(runs, {'seed': seed})
  ]


def zipped(
  runs: Sequence[SweepRun], values: Mapping[str, Sequence[Any]]
) -> list[SweepRun]:
  """Every run with the first value of each key, with the second, and so on.

  Names are those of `product`. Example, a run `a` and
  {'model.width': [64, 128], 'opt.peak_lr': [0.003, 0.001]}:
    a-width=64-peak_lr=0.003 and a-width=128-peak_lr=0.001

  Raises:
    InputError: the keys have different numbers of values.
  """
  lengths = {key: len(options) for key, options in values.items()}
  if len({*lengths.values()}) > 1:
    raise errors.InputError(
      'sweep.zipped: as many values for each key, not '
      + ', '.join(f'{num} of {key}' for key, num in lengths.items())
    )
  return [
    changed
    for one in runs
    for together in zip(*values.values(), strict=True)
    for changed in product(
      [one], {key: [x] for key, x in zip(values, together, strict=True)}
    )
  ]


def sample(
  runs: Sequence[SweepRun],
  space: Mapping[str, spaces.Range],
  num: int,
  seed: int = 0,
) -> list[SweepRun]:
  """Every run with the same `num` random draws of the values.

  Example, a run `a` and num 2: `a-draw=0` and `a-draw=1`.

  Args:
    runs: the runs.
    space: ranges by config key; see `moejax.sweep.space`.
    num: the number of draws.
    seed: of the draws.

  Raises:
    InputError: the space is empty, or a value of it is no range.
  """
  spaces.check(space, 'sweep.sample')
  rng = random.Random(seed)
  draws = [
    {key: values.draw(rng) for key, values in space.items()} for _ in range(num)
  ]
  return [
    dataclasses.replace(
      changed, name=f'{one.name}-draw={i}', group=f'{one.group}-draw={i}'
    )
    for one in runs
    for i, draw in enumerate(draws)
    for changed in change([one], draw)
  ]
