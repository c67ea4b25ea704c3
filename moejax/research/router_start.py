r"""Does a router that starts smaller balance its experts sooner?

  python -m moejax.research.router_start --config.model.num_layers=2

It trains a few steps of a router for each standard deviation of its start and
each seed, and looks at how evenly experts are used in each step's batch. All
runs of a router have one compiled training step, because the start decides
nothing but the initial weights. It writes the tables of
docs/studies/router_start.md, router_start.png and router_start.json:

  start    what does not depend on training: balance and logits of step 0
  trained  balance after some steps

Each run is a file of --workdir. A command that was stopped goes on with the
runs that are missing.
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from moejax import config as configs
from moejax.analysis.measures import utilisation
from moejax.config import Run
from moejax.core import command, config_tree, errors, exits, files, terminal
from moejax.data import build as data_build
from moejax.model import build
from moejax.model.build import Model
from moejax.moe import stats
from moejax.parallel import hosts
from moejax.parallel import mesh as meshes
from moejax.research import comparison, figures, page
from moejax.train import optimizer
from moejax.train import state as states
from moejax.train import step as steps

ENTRIES = ('switch', 'deepseek_moe', 'deepseek_v3')
STDS = (0.006, 0.02, 0.06, 0.2)
# The random numbers of routers in training; data and weights have the run's.
STEP_SEED = 0
Balance = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Started:
  """A few steps of one run.

  Attributes:
    entry: of configs/zoo.py.
    std: standard deviation of the router's weights at the start.
    seed: of initial weights and of the order of the text.
    balance: see `balance_of`, by step; that of step 0 is of fresh weights.
  """

  entry: str
  std: float
  seed: int
  balance: list[Balance]


def main(argv: Sequence[str]) -> None:
  """Trains the runs that are missing, and writes tables and figure."""
  flags = command.parser(__doc__)
  add, one_or_more = flags.add_argument, command.number(int, 1)
  add('--zoo', default='configs/zoo.py', help='config file of the entries')
  add('--entries', default=','.join(ENTRIES), help='(default: %(default)s)')
  text = 'standard deviations (default: %(default)s)'
  add('--stds', default=','.join(map(str, STDS)), help=text)
  add('--seeds', type=one_or_more, default=3, help='(default: %(default)s)')
  text = 'of each run (default: %(default)s)'
  add('--steps', type=one_or_more, default=20, help=text)
  text = 'folder of the runs (default: %(default)s)'
  add('--workdir', default='runs/router_start', help=text)
  text = 'folder of the page, its figure and JSON (default: %(default)s)'
  add('--out', default=page.FOLDER, help=text)
  args, overrides = command.parse(flags, argv)
  study = page.Page(args.out, 'router_start')
  stds = [_std(text) for text in args.stds.split(',')]
  started = [
    run
    for entry in args.entries.split(',')
    for run in runs_of(
      configs.load(f'{args.zoo}:{entry}', overrides),
      entry,
      [(std, seed) for std in stds for seed in range(args.seeds)],
      args.steps,
      pathlib.Path(args.workdir),
    )
  ]
  study.table('start', start_rows(started), {})
  numbers = [dataclasses.asdict(run) for run in started]
  study.table('trained', trained_rows(started), numbers)
  terminal.say('\n'.join(study.write(draw(started))))


def _std(text: str) -> float:
  """One of --stds.

  Raises:
    InputError: it is not a number above 0.
  """
  try:
    std = float(text)
  except ValueError:
    std = 0.0
  if not 0 < std <= 100:
    raise errors.InputError(
      f'--stds: {text!r} is not a number above 0, up to 100'
    )
  return std


def runs_of(
  run: Run,
  entry: str,
  cells: Sequence[tuple[float, int]],
  num_steps: int,
  folder: pathlib.Path,
) -> list[Started]:
  """The runs of one router; those that the folder lacks are trained.

  Args:
    run: the config, whose router's start is replaced.
    entry: its name.
    cells: standard deviation and seed of each run.
    num_steps: steps of each run.
    folder: where runs are kept.

  Raises:
    InputError: the model has no router whose start has a standard deviation.
  """
  check(run, entry)
  text = json.dumps(config_tree.to_dict(run), sort_keys=True)
  fingerprint = hashlib.sha256(text.encode()).hexdigest()
  folder.mkdir(parents=True, exist_ok=True)
  trainer = None
  result = []
  for std, seed in cells:
    path = folder / f'{entry}-std={std:g}-seed={seed}.json'
    balance = _kept(path, fingerprint)[:num_steps]
    if len(balance) < num_steps:
      terminal.note(f'{path.stem} ...')
      trainer = trainer or Trainer(run)
      balance = [*trainer.balance(std, seed, num_steps)]
      kept = {'fingerprint': fingerprint, 'balance': balance}
      files.atomic_write_json(path, kept)
    result.append(Started(entry, std, seed, balance))
  return result


def check(run: Run, entry: str) -> None:
  """Raises InputError unless the start of the router has a deviation."""
  names = {field.name for field in dataclasses.fields(run.model.moe.scorer)}
  if not run.model.num_moe or not {'start', 'std'} <= names:
    raise errors.InputError(
      f'--entries: {entry} has no router whose start has a standard deviation, '
      'model.moe.scorer.std'
    )


def _kept(path: pathlib.Path, fingerprint: str) -> list[Balance]:
  """The balance in a file, if it is of the same config; else none."""
  if not path.exists():
    return []
  try:
    value = json.loads(path.read_text())
    return value['balance'] if value['fingerprint'] == fingerprint else []
  except (ValueError, KeyError, TypeError):
    return []  # damaged: it is made anew


def with_std(run: Run, std: float) -> Run:
  """The config with a router that starts with this standard deviation."""
  scorer: Any = run.model.moe.scorer
  scorer = dataclasses.replace(scorer, start='model', std=std)
  moe = dataclasses.replace(run.model.moe, scorer=scorer)
  model = dataclasses.replace(run.model, moe=moe)
  return dataclasses.replace(run, model=model)


class Trainer:
  """Trains a few steps of one router, by one program for all starts."""

  def __init__(self, run: Run):
    """Compiles nothing yet.

    Args:
      run: the config.
    """
    self._run = run
    self._mesh = meshes.make(meshes.MeshConfig(data=1), jax.devices()[:1])
    model = self._model(run)
    self._transform = optimizer.make(run.opt, run.train.steps, model.decays)
    self._step = steps.make(
      model, self._transform, run.opt, run.train, STEP_SEED
    )

  def balance(self, std: float, seed: int, num_steps: int) -> Iterator[Balance]:
    """Trains, and gives the balance of each step before its update.

    Args:
      std: standard deviation of the router's start.
      seed: of initial weights and of the order of the text.
      num_steps: number of steps.
    """
    run = self._run
    model = self._model(with_std(run, std))
    weights = model.init(jax.random.key(seed))
    rule = run.train.skip_spikes
    state = states.begin(model, self._transform, weights, rule)
    data = data_build.build(run.data, run.train.batch_size, seed)
    rows = hosts.my_rows(run.train.batch_size, self._mesh)
    for number in range(num_steps):
      batch = data.train.batch(number, rows)
      batch = hosts.put_rows(batch, self._mesh, rows, run.train.batch_size)
      state, metrics = self._step(state, batch)
      yield balance_of(jax.device_get(metrics['stats']))

  def _model(self, run: Run) -> Model:
    return build.build(run.model, self._mesh)


def balance_of(statistics: Mapping[str, np.ndarray]) -> Balance:
  """How evenly a batch's assignments are shared, means over layers.

  max      load of the most loaded expert over the mean load
  entropy  of the loads, over ln E: 1 if all are equal
  dead     share of experts without an assignment
  logit    largest absolute logit

  Args:
    statistics: those of `moe.stats`, layers in front.
  """
  count_NE = np.asarray(statistics['count_E'], np.float64)
  return {
    'max': float(stats.load(count_NE).max(axis=1).mean()),
    'entropy': float(np.mean([*map(utilisation.entropy, count_NE)])),
    'dead': float((count_NE == 0).mean()),
    'logit': float(np.mean(statistics['logit'])),
  }


def by_start(
  started: Sequence[Started],
) -> dict[tuple[str, float], list[Started]]:
  """The runs that differ in their seed alone, by entry and deviation."""
  groups: dict[tuple[str, float], list[Started]] = {}
  for run in started:
    groups.setdefault((run.entry, run.std), []).append(run)
  return groups


def start_rows(started: Sequence[Started]) -> list[list[str]]:
  """Balance and logits of step 0, by entry and deviation."""
  columns = (
    ('largest logit', 'logit', 2),
    ('load max/mean', 'max', 2),
    ('entropy of loads', 'entropy', 3),
    ('dead', 'dead', 3),
  )
  head = ['router', 'std', *(title for title, *_ in columns), 'n']
  return [head, *_rows(started, 0, columns)]


def trained_rows(started: Sequence[Started]) -> list[list[str]]:
  """Balance of the last step, by entry and deviation."""
  columns = (
    ('load max/mean', 'max', 2),
    ('entropy of loads', 'entropy', 3),
    ('dead', 'dead', 3),
  )
  last = len(started[0].balance) - 1
  head = ['router', 'std', *(f'{t}, step {last}' for t, *_ in columns), 'n']
  return [head, *_rows(started, last, columns)]


def _rows(
  started: Sequence[Started],
  number: int,
  columns: Sequence[tuple[str, str, int]],
) -> Iterator[list[str]]:
  """The cells of one step; columns are title, key of `Balance` and digits."""
  for (entry, std), group in by_start(started).items():
    cells = [
      comparison.cell([run.balance[number][key] for run in group], digits)
      for _, key, digits in columns
    ]
    yield [entry, f'{std:g}', *cells, str(len(group))]


def draw(started: Sequence[Started]) -> Any:
  """The largest load over the steps, a panel for each router."""
  groups = by_start(started)
  entries = [*dict.fromkeys(run.entry for run in started)]
  stds = [*dict.fromkeys(run.std for run in started)]
  colours = dict(zip(stds, figures.COLOURS, strict=False))
  whole, panels = figures.figure(len(entries))
  for panel, entry in zip(panels, entries, strict=True):
    for std in stds:
      loads = [[b['max'] for b in run.balance] for run in groups[entry, std]]
      at = range(len(loads[0]))
      figures.line(panel, at, loads, f'std {std:g}', colours[std])
    panel.set_title(entry)
    panel.set_xlabel('step')
    panel.locator_params(axis='x', integer=True)
  panels[0].set_ylabel('load of the most loaded expert, max/mean')
  panels[0].legend(fontsize=8)
  return whole


if __name__ == '__main__':
  exits.main(main)
