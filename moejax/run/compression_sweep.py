"""Evaluates methods of METHODS at several numbers of experts, one by one.

The result is one file, written after every model, by default

  WORKDIR/compressions/sweep.json

so a command that was interrupted goes on with the next model. What the file has
counts if it was made with the same checkpoint, calibration and validation sets.
"""

import dataclasses
import functools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from etils import epath

from moejax.compress import methods
from moejax.core import compile_cache, errors, files, trees
from moejax.data import build as data_build
from moejax.data.cache import RowReader
from moejax.evals import perplexity
from moejax.evals.batches import eval_batches
from moejax.evals.subject import Track, untracked
from moejax.model import build
from moejax.model.config import ModelConfig
from moejax.run import (
  calibrating,
  calibration_text,
  compressing,
  data_progress,
  full_model,
  intervening,
  trace_files,
)
from moejax.run.calibrating import Calibration
from moejax.run.calibration_text import Collected
from moejax.run.full_model import FullModel
from moejax.run.trained import Trained, open_trained
from moejax.train import checkpoint

FOLDER = 'compressions'  # of a workdir
FULL = 'full'  # the model with all its experts, among the measurements
TIMED = 3  # passes over a batch, of which the fastest counts

Note = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class SweepRequest:
  """What is asked; the fields are flags of `cli.compress`.

  Attributes:
    methods: names in METHODS.
    keeps: numbers of experts.
    calibration: see `compressing.CompressionRequest`, as the next four.
    domains: weights of domains.
    statistics: folder of statistics.
    any_text: whether statistics that were kept are used whatever their text.
    seed: of scores that are drawn.
    batches: batches of each validation set; 0 for all.
    out: path of the result; '' for the default.
  """

  methods: Sequence[str]
  keeps: Sequence[int]
  calibration: Calibration = Calibration()
  domains: str = ''
  statistics: str = ''
  any_text: bool = False
  seed: int = 0
  batches: int = 0
  out: str = ''

  def path(self, workdir: str) -> epath.Path:
    """The file of the result."""
    if self.out:
      return epath.Path(self.out)
    return epath.Path(workdir) / FOLDER / 'sweep.json'


def sweep(
  workdir: str,
  request: SweepRequest,
  overrides: Sequence[tuple[str, str]] = (),
  *,
  full: Mapping[str, Any] | None = None,
  note: Note = lambda _: None,
  track: Track = untracked,
) -> dict[str, Any]:
  """Evaluates the full model, and each method at each number of experts.

  If no text is named for the calibration, the first half of each validation set
  is taken, and models are evaluated on the second half.

  Args:
    workdir: of the run, or of an imported model.
    request: what is asked.
    overrides: config keys to change, as dotted paths and texts.
    full: measurements of the full model by another sweep on the same rows.
    note: is called with lines on the progress.
    track: shows the progress through batches and layers.

  Returns:
    The content of the result's file: what was asked, and `measured`, by
    `name_of` a model.

  Raises:
    InputError: see `compressing.choose`; or there is no text to evaluate on.
  """
  opened = open_trained(workdir, overrides, trace_files.USED)
  run = opened.run
  path = request.path(workdir)
  with (
    full_model.opened(opened, request.calibration.step, note) as (source, step),
    compile_cache.kept(run.train.compile_cache, workdir, note),
  ):
    _check(source, request)
    readers = validation(opened, request, note)
    files.check_writable(path.parent, '--out' if request.out else 'folder')
    files.check_output(str(path), '--out')
    kept = _result_in(path)
    weights = opened.weights(str(step), note)[0]
    collected = _collected(opened, weights, step, request, note, track)
    made_with = _made_with(collected, readers, request)
    about = {'workdir': workdir, 'step': step, 'made_with': made_with}
    measured = _kept(path, kept, made_with, note)
    scorer = Scorer(opened.model.mesh, readers, request.batches, note, track)
    if full is not None:
      measured.setdefault(FULL, dict(full))
    if FULL not in measured:
      config = source.config
      sizes = _sizes([config.moe.num_experts] * config.num_moe, source)
      measured[FULL] = sizes | scorer.measure(FULL, config, weights)
    del weights
    for method in request.methods:
      for keep in request.keeps:
        name = name_of(method, keep, request.seed)
        if name in measured:
          note(f'{name}: done before')
          continue
        measured[name] = _measure(
          source, collected, method, keep, request.seed, scorer
        )
        files.atomic_write_json(path, about | {'measured': measured})
  result = about | {'measured': measured}
  files.atomic_write_json(path, result)
  return result


def score(workdir: str, batches: int, note: Note) -> dict[str, Any]:
  """The model of a workdir, evaluated on the rows on which a sweep evaluates.

  Args:
    workdir: of a run that was trained on the same text.
    batches: of each validation set; 0 for all.
    note: is called with lines on the progress.

  Returns:
    See `Scorer.measure`.
  """
  opened = open_trained(workdir, (), trace_files.USED)
  weights, _ = opened.weights(checkpoint.NEWEST, note)
  readers = validation(opened, SweepRequest((), ()), note)
  scorer = Scorer(opened.model.mesh, readers, batches, note, untracked)
  return scorer.measure(workdir, opened.model.config, weights)


def name_of(method: str, keep: int, seed: int = 0) -> str:
  """The name of a model among the measurements, such as 'easy_ep=16'."""
  return f'{method}={keep}' + (f' seed {seed}' if seed else '')


def _check(full: FullModel, request: SweepRequest) -> None:
  """Raises InputError for what cannot be made, before anything is computed."""
  calibrating.check_model(full.config)
  for name in request.methods:
    for keep in request.keeps:
      full.expected(methods.lookup(name), keep)


def validation(
  opened: Trained, request: SweepRequest, note: Note
) -> dict[str, RowReader]:
  """The rows to evaluate on, by validation set."""
  report = data_progress.lines(note)
  readers = data_build.validation(opened.run.data, report).readers
  if not readers:
    raise errors.InputError(
      f'the text of {opened.workdir} has no validation set: there is nothing '
      'to evaluate on'
    )
  if request.calibration.files or request.calibration.mixture:
    return readers
  return calibration_text.halves(readers)[1]


def _collected(
  opened: Trained,
  weights: build.Weights,
  step: int,
  request: SweepRequest,
  note: Note,
  track: Track,
) -> Collected:
  """The statistics that all methods read."""
  outputs = any(methods.lookup(name).needs_outputs for name in request.methods)
  collector = calibration_text.Collector(
    opened=opened,
    calibration=dataclasses.replace(request.calibration, outputs=outputs),
    domains=request.domains,
    folder=request.statistics,
    half=True,
    note=note,
    track=track,
  )
  return collector.collect(lambda: weights, step, any_text=request.any_text)


def _made_with(
  collected: Collected,
  readers: Mapping[str, RowReader],
  request: SweepRequest,
) -> dict[str, Any]:
  """What the measurements depend on, beside method, number and seed."""
  return {
    'checkpoint': collected.checkpoint,
    'text': collected.text,
    'domains': {
      name: {'weight': weight, 'tokens': collected.statistics[name].tokens}
      for name, weight in collected.domain_weights.items()
    },
    'evaluated_on': {
      name: [reader.fingerprint, reader.num_rows]
      for name, reader in readers.items()
    },
    'batches': request.batches,
  }


def _result_in(path: epath.Path) -> dict[str, Any]:
  """What a file has of a sweep; nothing if there is none.

  Raises:
    InputError: the file is of something else, and would be lost.
  """
  if not path.exists():
    return {'made_with': {}, 'measured': {}}
  try:
    kept = json.loads(path.read_text())
    return {name: dict(kept[name]) for name in ('made_with', 'measured')}
  except (ValueError, TypeError, KeyError):
    raise errors.InputError(
      f'{path} is no result of a sweep; name another file with --out'
    ) from None


def _kept(
  path: epath.Path,
  kept: Mapping[str, Any],
  made_with: Mapping[str, Any],
  note: Note,
) -> dict[str, Any]:
  """The measurements in a file, if they were made with the same.

  Raises:
    InputError: they were made with something else, and would be lost.
  """
  if not kept['made_with']:
    return {}
  # As it is read back: a tuple becomes a list.
  now = json.loads(json.dumps(made_with))
  differing = [key for key in now if kept['made_with'].get(key) != now[key]]
  if differing:
    raise errors.InputError(
      f'{path} was made with other {", ".join(differing)}; name another file '
      'with --out'
    )
  measured = dict(kept['measured'])
  note(f'{path} has {len(measured)} models already.')
  return measured


def _measure(
  full: FullModel,
  collected: Collected,
  method_name: str,
  keep: int,
  seed: int,
  scorer: 'Scorer',
) -> dict[str, Any]:
  """Makes one smaller model in memory, and evaluates it."""
  method, name = methods.lookup(method_name), name_of(method_name, keep, seed)
  selection = full.select(method, keep, collected, seed)
  smaller, merged = full.smaller(method, selection, scorer.track)
  kept_N = [int(kept_E.sum()) for kept_E in selection.kept_NE]
  scores = scorer.measure(name, smaller.config, smaller.tree(full.get))
  return {
    'method': method_name,
    'keep': keep,
    'seed': seed,
    **_sizes(kept_N, smaller),
    'parameters': compressing.num_distinct(smaller, merged, method),
    'kept': [x.nonzero()[0].tolist() for x in selection.kept_NE],
    **scores,
  }


def _sizes(kept_N: Sequence[int], model: Any) -> dict[str, Any]:
  """The experts of each layer, and the size of a model."""
  return {
    'experts': list(kept_N),
    'parameters': trees.count(model.shapes),
    'bytes': trees.num_bytes(model.shapes),
  }


@dataclasses.dataclass(frozen=True)
class Scorer:
  """Evaluates models on the same rows.

  Attributes:
    mesh: of the models.
    readers: rows of each validation set.
    batches: batches of each; 0 for all.
    note: is called with lines on the progress.
    track: shows the progress through batches.
  """

  mesh: jax.sharding.Mesh
  readers: Mapping[str, RowReader]
  batches: int
  note: Note
  track: Track

  def measure(
    self, name: str, config: ModelConfig, weights: build.Weights
  ) -> dict[str, Any]:
    """The scores by validation set, and the speed.

    Args:
      name: of the model, for lines on the progress.
      config: of the model.
      weights: on the host or on the devices.
    """
    self.note(f'{name} ...')
    model, step = _program(config, self.mesh)
    weights = jax.device_put(weights, model.shardings)
    scores = perplexity.score_sets(
      step,
      model,
      weights,
      self.readers,
      limit=self.batches,
      track=self.track,
    )
    reader = next(iter(self.readers.values()))
    batch = next(eval_batches(model, reader, 1))
    return {
      'tokens_per_s': _tokens_per_s(lambda: step(weights, batch), batch),
      'sets': {
        name: intervening.score_to_json(score, self.readers[name])
        for name, score in scores.items()
      },
    }


# Methods that keep equally many experts share a program.
@functools.lru_cache(maxsize=8)
def _program(
  config: ModelConfig, mesh: jax.sharding.Mesh
) -> tuple[build.Model, Callable[..., Any]]:
  """A model and the step that evaluates it."""
  model = build.build(config, mesh)
  return model, perplexity.make_step(model)


def _tokens_per_s(evaluate: Callable[[], Any], batch: Any) -> float:
  """Tokens of a batch over the seconds of the fastest of some evaluations."""
  seconds = []
  for _ in range(TIMED):
    begin = time.perf_counter()
    jax.block_until_ready(evaluate())
    seconds.append(time.perf_counter() - begin)
  return batch.token_BL.size / min(seconds)
