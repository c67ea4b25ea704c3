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
the command replaces both.
"""

import collections
import dataclasses
import itertools
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from moejax import config as configs
from moejax.config import user_files
from moejax.core import compile_cache, errors

# A run's name is a folder, and a word of --only.
NAME = re.compile(r'[A-Za-z0-9][A-Za-z0-9._=+-]*')
COMPILED = compile_cache.FOLDER  # a folder beside those of the runs


@dataclasses.dataclass(frozen=True)
class SweepRun:
  """One run of a sweep.

  Attributes:
    name: name of its folder in the sweep's workdir; unique in the sweep.
    config: path[:arg] of a config file, as for --config.
    overrides: dotted paths and texts, as for --config.<path>=<text>.
    seed: seed of the run, in place of the config file's.
    group: name that runs share which differ in their seed alone; the table has
      a row for each group, with mean and spread.
  """

  name: str
  config: str
  overrides: tuple[tuple[str, str], ...] = ()
  seed: int = 0
  group: str = ''

  @property
  def all_overrides(self) -> tuple[tuple[str, str], ...]:
    """The overrides, and the seed as one of them.

    An override of `seed` replaces the default seed 0. Together with `seeds` it
    is a key with two values, which is refused.
    """
    if not self.seed and 'seed' in dict(self.overrides):
      return self.overrides
    return (('seed', str(self.seed)), *self.overrides)


def run(
  config: str, overrides: Mapping[str, Any] | None = None, name: str = ''
) -> list[SweepRun]:
  """One run, in a list.

  Args:
    config: path[:arg] of a config file.
    overrides: values by dotted path.
    name: name of the run; by default the text behind the colon, or the file's
      name.
  """
  path, _, arg = config.partition(':')
  name = name or configs.SEPARATOR.sub('-', arg) or pathlib.PurePath(path).stem
  return change([SweepRun(name, config, group=name)], overrides or {})


def each(path: str, args: Sequence[str]) -> list[SweepRun]:
  """The same config file with each of the arguments.

  Example:
    each('configs/zoo.py', ['switch', 'gshard'])
    runs switch (configs/zoo.py:switch) and gshard (configs/zoo.py:gshard)
  """
  return [one for arg in args for one in run(f'{path}:{arg}')]


def change(
  runs: Sequence[SweepRun], overrides: Mapping[str, Any]
) -> list[SweepRun]:
  """The same runs with these values too; names stay.

  A value replaces an earlier one of the same key.
  """
  more = {key: _text(value) for key, value in overrides.items()}
  return [
    dataclasses.replace(
      one, overrides=tuple({**dict(one.overrides), **more}.items())
    )
    for one in runs
  ]


def product(
  runs: Sequence[SweepRun], values: Mapping[str, Sequence[Any]]
) -> list[SweepRun]:
  """Every run with every combination of the values.

  The last word of each key and its value are added to the name.

  Example, a run `switch` and {'opt.peak_lr': [0.001, 0.003]}:
    switch-peak_lr=0.001 and switch-peak_lr=0.003
  """
  product_runs = []
  for one, combination in itertools.product(
    runs, itertools.product(*values.values())
  ):
    overrides = dict(zip(values, combination, strict=True))
    tail = ''.join(
      f'-{key.rpartition(".")[2]}={_text(value)}'
      for key, value in overrides.items()
    )
    renamed = dataclasses.replace(
      one, name=one.name + tail, group=one.group + tail
    )
    product_runs += change([renamed], overrides)
  return product_runs


def seeds(runs: Sequence[SweepRun], num: int) -> list[SweepRun]:
  """Every run with the seeds 0 to num - 1, all runs of a seed together.

  In this order all runs can be compared after the first seed, and the programs
  of later seeds are compiled already.

  Example, runs `a` and `b` and num 2:
    a-seed=0, b-seed=0, a-seed=1, b-seed=1
  """
  return [
    dataclasses.replace(one, name=f'{one.name}-seed={seed}', seed=seed)
    for seed in range(num)
    for one in runs
  ]


def load(path: str) -> list[SweepRun]:
  """The runs of a sweep file.

  Raises:
    InputError: the file does not exist or has no get_sweep(), get_sweep() does
      not return a list of runs, or a name is used twice or is not the name of a
      folder.
  """
  get_sweep = getattr(user_files.load(path, 'sweep'), 'get_sweep', None)
  if not callable(get_sweep):
    raise errors.InputError(
      f'{path} has no function get_sweep(); a config file is for '
      'python -m moejax.main'
    )
  runs = user_files.call(path, get_sweep)
  if not (
    isinstance(runs, list)
    and runs
    and all(isinstance(one, SweepRun) for one in runs)
  ):
    raise errors.InputError(
      f'{path}: get_sweep() must return a list of runs, such as '
      "sweep.run('configs/tiny.py')"
    )
  counts = collections.Counter(one.name for one in runs)
  for name, count in counts.items():
    if count > 1:
      raise errors.InputError(
        f'{path}: {count} runs are called {name!r}; give them names of their '
        'own'
      )
    if not NAME.fullmatch(name) or name == COMPILED:
      raise errors.InputError(
        f'{path}: a run cannot be called {name!r}: its name is a folder; use '
        'letters, digits and . _ = + -'
      )
  return [dataclasses.replace(one, group=one.group or one.name) for one in runs]


def _text(value: Any) -> str:
  """A value as the text of a flag; lists without brackets."""
  if isinstance(value, (list, tuple)):
    return ','.join(map(_text, value))
  return str(value)
