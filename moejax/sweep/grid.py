"""Lists of runs, built from small combinators: what a sweep file is made of.

  from moejax import sweep

  def get_sweep():
    runs = sweep.each('configs/zoo.py', ['switch', 'gshard'])
    runs = sweep.product(runs, {'opt.peak_lr': [1e-3, 3e-3]})
    return sweep.seeds(sweep.change(runs, {'train.steps': 300}), 3)

A sweep file is Python with `get_sweep()`, which returns a list of runs; lists
are joined by `+`. Every combinator takes runs and returns runs. Keys and values
are those of `--config.<key>=<value>`, and are applied by the same strict path,
after the config file, all of a run at once. Where a run is given another value
for the same key, the combinator around it has the last word, and a flag of the
command after that.
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
COMPILED = compile_cache.FOLDER  # beside those of the runs


@dataclasses.dataclass(frozen=True)
class SweepRun:
  """One run of a sweep.

  Attributes:
    name: of its folder in the sweep's workdir; no two are the same.
    config: path[:arg] of a config file, as for --config.
    overrides: dotted paths and texts, as for --config.<path>=<text>.
    seed: the run's; it goes before the `seed` of the config file.
    group: runs that differ in their seed alone are of one group, over which
      the table has mean and spread.
  """

  name: str
  config: str
  overrides: tuple[tuple[str, str], ...] = ()
  seed: int = 0
  group: str = ''

  @property
  def all_overrides(self) -> tuple[tuple[str, str], ...]:
    """The overrides, and the seed as one of them.

    An override of `seed` replaces the seed 0 that a run has by itself; beside
    those of `seeds` it is a key with two values.
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
    name: what stands behind the colon if not given, else the file's name.
  """
  path, _, arg = config.partition(':')
  name = name or configs.SEPARATOR.sub('-', arg) or pathlib.PurePath(path).stem
  found = [SweepRun(name, config, group=name)]
  return change(found, overrides or {})


def each(path: str, args: Sequence[str]) -> list[SweepRun]:
  """The same config file with each of the arguments.

  Example:
    each('configs/zoo.py', ['switch', 'gshard'])
    runs switch (configs/zoo.py:switch) and gshard (configs/zoo.py:gshard)
  """
  return [found for arg in args for found in run(f'{path}:{arg}')]


def change(
  runs: Sequence[SweepRun], overrides: Mapping[str, Any]
) -> list[SweepRun]:
  """The same runs, each with these values as well; names stay.

  A value takes the place of one that the same key was given before.
  """
  more = {key: _text(value) for key, value in overrides.items()}
  return [
    dataclasses.replace(
      found, overrides=tuple({**dict(found.overrides), **more}.items())
    )
    for found in runs
  ]


def product(
  runs: Sequence[SweepRun], values: Mapping[str, Sequence[Any]]
) -> list[SweepRun]:
  """Every run with every combination of the values.

  A name gets the last part of each key, and the value.

  Example, a run `switch` and {'opt.peak_lr': [0.001, 0.003]}:
    switch-peak_lr=0.001 and switch-peak_lr=0.003
  """
  found = []
  for one, chosen in itertools.product(
    runs, itertools.product(*values.values())
  ):
    picked = dict(zip(values, chosen, strict=True))
    (changed,) = change([one], picked)
    tail = ''.join(
      f'-{key.rpartition(".")[2]}={_text(value)}'
      for key, value in picked.items()
    )
    found.append(
      dataclasses.replace(changed, name=one.name + tail, group=one.group + tail)
    )
  return found


def seeds(runs: Sequence[SweepRun], num: int) -> list[SweepRun]:
  """Every run with the seeds 0 to num - 1, all runs of a seed together.

  So the whole picture is there after the first seed, and later seeds find the
  programs compiled.

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
    InputError: no such file, no get_sweep() in it, something else than runs, a
      name that cannot be a folder's or that two runs have.
  """
  get_sweep = getattr(user_files.load(path, 'sweep'), 'get_sweep', None)
  if not callable(get_sweep):
    raise errors.InputError(
      f'{path} has no function get_sweep(); a config file is for '
      'python -m moejax.main'
    )
  found = user_files.call(path, get_sweep)
  if not (
    isinstance(found, list)
    and found
    and all(isinstance(one, SweepRun) for one in found)
  ):
    raise errors.InputError(
      f'{path}: get_sweep() must return a list of runs, such as '
      "sweep.run('configs/tiny.py')"
    )
  counts = collections.Counter(one.name for one in found)
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
  return [
    dataclasses.replace(one, group=one.group or one.name) for one in found
  ]


def _text(value: Any) -> str:
  """A value as a flag would have it; lists without brackets."""
  if isinstance(value, (list, tuple)):
    return ','.join(map(_text, value))
  return str(value)
