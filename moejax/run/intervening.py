"""Evaluates a run's model under an intervention, value by value.

The result is one file of the workdir, which is written after every value,

  runs/tiny/interventions/mask_top.json

so a command that was interrupted goes on with the next value. What the file has
counts if it was made with the same checkpoint, config, text and batches.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from moejax.analysis import interventions
from moejax.analysis.interventions import base
from moejax.analysis.interventions.replay import Replay
from moejax.convert import companions
from moejax.core import compile_cache, config_tree, errors, files
from moejax.data import build as data_build
from moejax.data.build import Data
from moejax.evals import perplexity, suite
from moejax.evals.engine import ModelEngine
from moejax.evals.prompts import Asked
from moejax.evals.subject import Track, untracked
from moejax.model import build
from moejax.model.build import Model, Weights
from moejax.model.config import ModelConfig
from moejax.run import (
  data_progress,
  evaluation,
  intervention_rows,
  replaying,
  suites,
)
from moejax.run.suites import SuiteRequest
from moejax.run.trained import Trained, open_trained
from moejax.train import checkpoint

FOLDER = 'interventions'  # in a workdir
UNCHANGED = 'unchanged'  # the name of the model as it is, among the values


@dataclasses.dataclass(frozen=True)
class InterventionRequest:
  """What is asked; each field is a flag of `cli.intervene`.

  Attributes:
    what: name in INTERVENTIONS.
    values: its values, as texts; none for the usual ones.
    layers: numbers in the model of the layers to change; None for all.
    step: which checkpoint, see `restore.weights`.
    batches: batches of each validation set; 0 for all.
    suite: benchmarks to answer beside; None for none.
  """

  what: str
  values: Sequence[str] = ()
  layers: Sequence[int] | None = None
  step: str = checkpoint.NEWEST
  batches: int = 0
  suite: SuiteRequest | None = None


def intervene(
  workdir: str,
  request: InterventionRequest,
  overrides: Sequence[tuple[str, str]] = (),
  *,
  note: Callable[[str], None] = lambda _: None,
  track: Track = untracked,
) -> dict[str, Any]:
  """Evaluates the model as it is and for each value of an intervention.

  Args:
    workdir: of a run, or of an imported checkpoint.
    request: what is asked.
    overrides: config keys to change, as dotted paths and texts.
    note: is called with lines on the progress.
    track: shows the progress through batches.

  Returns:
    The content of the result's file: what was asked, and `rows`
    (`intervention_rows.rows`), of these values and of those that earlier
    commands measured.

  Raises:
    InputError: a value that does not fit the model, a layer without experts, a
      router that cannot be changed in this way, no such checkpoint, or a
      workdir without a text to evaluate on.
  """
  entry = interventions.lookup(request.what)
  opened = open_trained(workdir, overrides, evaluation.USED)
  request = _resolved(opened, request, note)
  changed = configs(opened.model.config, request)
  asked = suites.ask(request.suite, note) if request.suite else []
  run = opened.run
  data = data_build.build(
    run.data, run.train.batch_size, run.seed, data_progress.lines(note)
  )
  if not data.validation and not asked:
    raise errors.InputError(
      f'the text of {workdir} has no validation set: there is nothing to '
      'evaluate on'
    )
  files.check_writable(epath.Path(workdir) / FOLDER)
  weights, step = opened.weights(request.step, note)
  scorer = _Scorer(opened, weights, data, asked, request, note, track)
  made_with = _made_with(opened, step, request)
  file = path(workdir, request)
  measured = _kept(file, made_with, note)
  about = {
    'what': request.what,
    'summary': entry.summary,
    'value': entry.value,
    'workdir': workdir,
    'values': [value for value in changed if value != UNCHANGED],
    'step': step,
    'layers': None if request.layers is None else sorted(request.layers),
    'batches': request.batches,
    'made_with': made_with,
  }
  result: dict[str, Any] = {}
  with compile_cache.kept(run.train.compile_cache, workdir, note):
    for value, config in changed.items():
      measured[value] = scorer.measure(value, config, measured.get(value, {}))
      rows = intervention_rows.rows(measured, UNCHANGED)
      result = about | {'rows': rows, 'measured': measured}
      files.atomic_write_json(file, result)
  return result


def path(workdir: str, request: InterventionRequest) -> epath.Path:
  """The file of the result, such as interventions/mask_top_layers_1_3.json."""
  name = request.what
  if request.layers is not None:
    name += f'_layers_{"_".join(map(str, sorted(request.layers)))}'
  return epath.Path(workdir) / FOLDER / f'{name}.json'


def _resolved(
  opened: Trained, request: InterventionRequest, note: Callable[[str], None]
) -> InterventionRequest:
  """The request, in which values that name checkpoints have their steps.

  Raises:
    InputError: there is no such checkpoint, its routing does not fit the model,
      or a replay is asked for some layers or for benchmarks.
  """
  if not isinstance(interventions.lookup(request.what), Replay):
    return request
  if request.layers is not None or request.suite is not None:
    flag = 'suite' if request.layers is None else 'layers'
    raise errors.InputError(
      f'--what={request.what} replays all layers on the validation sets; leave '
      f'out --{flag}'
    )
  values = []
  for value in request.values:
    replaying.check(opened, value)
    values.append(replaying.resolve(value, opened.workdir, note))
  return dataclasses.replace(request, values=values)


def configs(
  config: ModelConfig, request: InterventionRequest
) -> dict[str, ModelConfig]:
  """By value, the config of the changed model; first the unchanged one.

  Raises:
    InputError: see `interventions.apply`; or there is no value.
  """
  entry = interventions.lookup(request.what)
  try:
    base.places(config, request.layers)
    entry.check_router(config)
  except errors.InputError as error:
    raise errors.InputError(f'{request.what}: {error}') from None
  values = [*request.values] or _usual(config, request)
  if not values:
    raise errors.InputError(
      f'--what={request.what} needs --values: {entry.value}'
    )
  if isinstance(entry, Replay):
    return dict.fromkeys((UNCHANGED, *values), config)
  return {UNCHANGED: config} | {
    value: interventions.apply(
      config, f'{request.what}={value}', request.layers
    )
    for value in values
  }


def _usual(config: ModelConfig, request: InterventionRequest) -> list[str]:
  """The usual values of an intervention that fit the model.

  If none fits, all of them, so that the error says why.
  """
  usual = interventions.lookup(request.what).usual(config)

  def fits(value: str) -> bool:
    try:
      interventions.apply(config, f'{request.what}={value}', request.layers)
    except errors.InputError:
      return False
    return True

  return [value for value in usual if fits(value)] or [*usual]


def _made_with(
  opened: Trained, step: int, request: InterventionRequest
) -> dict[str, Any]:
  """What a result depends on, beside the value."""
  text = json.dumps(config_tree.to_dict(opened.run)['data'], sort_keys=True)
  return {
    'step': step,
    'config': suites.fingerprint(opened.run),
    'text': hashlib.sha256(text.encode()).hexdigest(),
    'batches': request.batches,
  }


def _kept(
  file: epath.Path, made_with: Mapping[str, Any], note: Callable[[str], None]
) -> dict[str, Any]:
  """The measurements in a file, by value, if they were made with the same."""
  if not file.exists():
    return {}
  try:
    kept = json.loads(file.read_text())
    old, measured = kept['made_with'], kept['measured']
    differing = [key for key, x in made_with.items() if old[key] != x]
  except (ValueError, TypeError, KeyError):
    note(f'{file} is of another version; it is made anew')
    return {}
  if differing:
    note(f'{file} was made with other {", ".join(differing)}; it is made anew')
    return {}
  return measured


@dataclasses.dataclass(frozen=True)
class _Scorer:
  """Measures the model of a run under an intervention.

  Attributes:
    opened: the trained model.
    weights: its weights, on the devices; the same for all values.
    data: its text.
    asked: items of benchmarks.
    request: what is asked.
    note: is called with lines on the progress.
    track: shows the progress through batches.
  """

  opened: Trained
  weights: Weights
  data: Data
  asked: Sequence[Asked]
  request: InterventionRequest
  note: Callable[[str], None]
  track: Track

  def measure(
    self, value: str, config: ModelConfig, kept: Mapping[str, Any]
  ) -> dict[str, Any]:
    """The scores of one value: `sets` and `tasks`, by their names.

    Args:
      value: of the intervention, or UNCHANGED.
      config: of the changed model.
      kept: measurements of the same value that an earlier command made.
    """
    tasks = dict(kept.get('tasks', {}))
    missing = [
      task
      for task in self.asked
      if tasks.get(task.name, {}).get('digest') != task.digest
    ]
    title = value if value == UNCHANGED else f'{self.request.what}={value}'
    if 'sets' in kept and not missing:
      self.note(f'{title}: done before')
      return dict(kept)
    self.note(f'{title} ...')
    model = build.build(config, self.opened.model.mesh)
    sets = kept['sets'] if 'sets' in kept else self._sets(value, model)
    for task in missing:
      tasks[task.name] = self._task(model, task)
    return {'sets': sets, 'tasks': tasks}

  def _sets(self, value: str, model: Model) -> dict[str, Any]:
    """By validation set, its score and the nats and tokens of each row."""
    entry = interventions.lookup(self.request.what)
    weights, outputs = self.weights, None
    if isinstance(entry, Replay) and value != UNCHANGED:
      source = replaying.open_source(value, self.opened, self.note)
      weights = {'own': self.weights, 'source': source.weights}
      outputs = replaying.outputs(model, source, gates=entry.gates)
    scores = perplexity.score_sets(
      perplexity.make_step(model, outputs),
      model,
      weights,
      self.data.validation,
      limit=self.request.batches,
      track=self.track,
    )
    return {
      name: score_to_json(score, self.data.validation[name])
      for name, score in scores.items()
    }

  def _task(self, model: Model, task: Asked) -> dict[str, Any]:
    """The result of a benchmark, as JSON."""
    vocab = self.opened.run.data.vocab
    cut: list[int] = []
    engine = ModelEngine(
      model,
      self.weights,
      vocab,
      end_ids=companions.end_ids(self.opened.hf_folder, vocab),
      note=self.note,
      cut=cut.append,
      track=self.track,
    )
    request = self.request.suite
    run = None if request is None else request.run
    return suite.score(task, engine, run, lambda: sum(cut)).to_json()


def score_to_json(score: perplexity.Score, reader: Any) -> dict[str, Any]:
  """A score as JSON; bits per byte as in evals/validation.py."""
  bits = None
  if reader.num_bytes:
    num_bytes = reader.num_bytes * score.tokens / reader.num_tokens
    bits = score.bits_per_byte(num_bytes)
  rows_R2 = np.zeros((0, 2)) if score.rows_R2 is None else score.rows_R2
  return {
    'loss': score.loss,
    'accuracy': score.accuracy,
    'bits_per_byte': bits,
    'tokens': score.tokens,
    'rows': rows_R2.tolist(),
  }
