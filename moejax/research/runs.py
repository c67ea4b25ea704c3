"""Finished runs of a sweep, by method, learning rate and seed.

The sweeps of docs/studies name a run `<method>-peak_lr=<rate>-seed=<seed>`.
"""

import collections
import dataclasses
import shlex
from collections.abc import Mapping, Sequence

from etils import epath

from moejax.core import errors
from moejax.sweep import results
from moejax.sweep.sweep import Sweep

RATE_KEY = 'opt.peak_lr'
RATE_IN_NAME = '-peak_lr='
Overrides = Sequence[tuple[str, str]]


@dataclasses.dataclass(frozen=True)
class FinishedRun:
  """A run that has its report.

  Attributes:
    method: its name in METHODS of configs/sweeps/studies.py.
    rate: the peak learning rate.
    seed: the seed.
    steps: steps that it was trained for.
    workdir: its folder.
    result: its numbers, see `moejax.sweep.results`.
  """

  method: str
  rate: float
  seed: int
  steps: int
  workdir: epath.Path
  result: results.Result

  @property
  def bits(self) -> float:
    """Bits per byte, the mean over the validation sets."""
    return self.result['bits_per_byte']


def finished(
  sweep_file: str, workdir: str, overrides: Overrides = ()
) -> list[FinishedRun]:
  """The finished runs of a sweep, in the order of its file.

  Args:
    sweep_file: path of the sweep file.
    workdir: folder of the sweep.
    overrides: config keys that the sweep was trained with, as dotted paths and
      texts.

  Raises:
    InputError: no run is finished, or the file has an error.
  """
  sweep = Sweep(sweep_file, overrides, workdir)
  runs = []
  for run in sweep.runs:
    result = sweep.result(run)
    if result['status'] == results.FINISHED:
      runs.append(
        FinishedRun(
          method=run.group.partition(RATE_IN_NAME)[0],
          rate=float(run.overrides[RATE_KEY]),
          seed=result['seed'],
          steps=sweep.configs[run.name].train.steps,
          workdir=sweep.folder / run.name,
          result=result,
        )
      )
  if not runs:
    raise errors.InputError(
      f'no run of {sweep_file} is finished in {workdir}; train with moejax '
      f'sweep --sweep={shlex.quote(str(sweep_file))} '
      f'--workdir={shlex.quote(str(workdir))}'
    )
  return runs


def by_method(
  runs: Sequence[FinishedRun], methods: Sequence[str] | None = None
) -> dict[str, list[FinishedRun]]:
  """The runs of each method in the order of their seeds.

  Args:
    runs: finished runs.
    methods: the methods, in order; those without a run are left out. None for
      all methods, in the order of the runs.
  """
  groups = collections.defaultdict(list)
  for run in runs:
    groups[run.method].append(run)
  names = groups if methods is None else [m for m in methods if m in groups]
  return {name: sorted(groups[name], key=lambda r: r.seed) for name in names}


def bits_of(
  groups: Mapping[str, Sequence[FinishedRun]],
) -> dict[str, list[float]]:
  """Bits per byte of each method's runs."""
  return {name: [run.bits for run in group] for name, group in groups.items()}
