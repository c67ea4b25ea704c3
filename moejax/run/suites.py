"""Scores the models of runs in a suite of benchmarks, task by task.

Each finished task is a file of its own in the workdir,

  runs/tiny/evals/lm_eval/step_350/hellaswag.json

so a command that was interrupted goes on with the next task. A file counts if
it was made with the same prompts, checkpoint, config and limit.
"""

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath

from moejax.config import Run
from moejax.convert import companions
from moejax.core import compile_cache, config_tree, errors, files
from moejax.data.vocab import Vocab
from moejax.evals import items, judges, prompts, suite
from moejax.evals.benchmark import Prompt
from moejax.evals.benchmarks import SUITES
from moejax.evals.draws import GREEDY, Draws
from moejax.evals.encoding import Encoder
from moejax.evals.engine import ModelEngine
from moejax.evals.image_engine import ImageEngine
from moejax.evals.prompts import Asked
from moejax.evals.subject import Track, untracked
from moejax.evals.suite import Result
from moejax.parallel import hosts
from moejax.parallel.group import SINGLE, Group
from moejax.run import restore, sights, trained
from moejax.train import checkpoint
from moejax.vision.front_end import TextOnly

FOLDER = 'evals'  # in a workdir
MANY = 12  # configurations, of which more are counted together


@dataclasses.dataclass(frozen=True)
class SuiteRequest:
  """What is asked; each field is a flag of `cli.evaluate`.

  Attributes:
    suite: name in SUITES.
    tasks: names in the suite; none for all of them.
    data: where rows come from: 'hub', 'tfds' or a folder.
    limit: rows of each configuration of a task; 0 for all.
    seed: seed of the choice of solved rows.
    step: which checkpoint, see `restore.weights`.
    run: runs programs that a model wrote; None refuses to.
    draws: how often prompts are continued, and with which temperature.
  """

  suite: str
  tasks: Sequence[str] = ()
  data: str = 'hub'
  limit: int = 0
  seed: int = 0
  step: str = checkpoint.NEWEST
  run: judges.Run | None = None
  draws: Draws = GREEDY


@dataclasses.dataclass(frozen=True)
class Scored:
  """The results of one workdir.

  Attributes:
    workdir: the folder.
    step: step of the checkpoint; None for a model without steps.
    results: by task, in the order of the suite.
  """

  workdir: str
  step: int | None
  results: dict[str, Result]


def ask(
  request: SuiteRequest, note: Callable[[str], None] = lambda _: None
) -> list[Asked]:
  """The items of all tasks, before any of them is scored.

  Raises:
    InputError: an unknown suite or task, rows that cannot be read or asked,
      programs that may not run, or a temperature where no text is generated.
  """
  asked = []
  for name, benchmark in suite.choose(
    SUITES, request.suite, request.tasks
  ).items():
    task = prompts.ask(
      name, benchmark, request.data, limit=request.limit, seed=request.seed
    )
    note(f'{name}: {_counted(task)}')
    suite.check_programs(task.items, request.run)
    asked.append(task)
  drawn = request.draws.temperature > 0
  if drawn and not any(suite.is_generated(task.items) for task in asked):
    raise errors.InputError(
      f'--temperature={request.draws.temperature:g} has no effect: '
      f'{", ".join(task.name for task in asked)} compare given answers and '
      'generate no text; leave it out'
    )
  return asked


def _counted(task: Asked) -> str:
  """How many rows were read, by configuration unless there are many.

  Example: '20,281 rows: 740 api_frameworks, 163 code_completion, ...'
  """
  text = f'{sum(task.rows.values()):,} rows'
  if 1 < len(task.rows) <= MANY:
    counts = [f'{count:,} {name}' for name, count in task.rows.items()]
    return f'{text}: {", ".join(counts)}'
  if len(task.rows) > MANY:
    text += f' of {len(task.rows)} configurations'
  return text


def evaluate(
  workdir: str,
  request: SuiteRequest,
  asked: Sequence[Asked],
  overrides: Sequence[tuple[str, str]] = (),
  *,
  group: Group = SINGLE,
  note: Callable[[str], None] = lambda _: None,
  track: Track = untracked,
) -> Scored:
  """Scores the model of a workdir; finished tasks are read from their files.

  All processes of a group call it together, and get the same results.

  Args:
    workdir: of a run, or of an imported checkpoint.
    request: what is asked.
    asked: the items, of `ask`.
    overrides: config keys to change, as dotted paths and texts.
    group: the processes; process 0 writes.
    note: is called with lines on the progress.
    track: shows the progress within a task.

  Raises:
    InputError: the workdir cannot be used, its checkpoint does not exist, or a
      task cannot be scored, such as one whose options do not fit the context.
  """
  opened = trained.open_trained(workdir, overrides)
  trained.check_tokenizer(opened)
  check_fit(asked, opened.run.data.vocab, opened.model.config.max_length)
  hosts.connect(opened.model.mesh, group)
  step = group.broadcast('step', lambda: _step(opened, request.step, note))
  vocab = opened.run.data.vocab
  if group.count > 1 and sights.of(opened) is not None:
    raise errors.InputError(
      f'{workdir}: a model that reads images is asked by one process; leave '
      'out the others'
    )

  def open_engine(cut: Callable[[int], None]) -> ModelEngine | ImageEngine:
    weights = opened.weights(str(step), note)[0]
    text = ModelEngine(
      opened.model,
      weights,
      vocab,
      end_ids=companions.end_ids(opened.hf_folder, vocab),
      note=note,
      cut=cut,
      track=track,
    )
    return sights.engine(opened, weights, text, note)

  scorer = Scorer(
    workdir,
    opened.run,
    step,
    request,
    open_engine,
    group=group,
    note=note,
  )
  results = {}
  with compile_cache.kept(opened.run.train.compile_cache, workdir, note):
    for number, task in enumerate(asked, 1):
      place = f'{task.name} ({number} of {len(asked)})'
      try:
        results[task.name] = scorer.score(task, place)
      except errors.InputError as e:
        raise errors.InputError(f'{task.name}: {e}') from e
  return Scored(workdir, step, results)


def check_fit(asked: Sequence[Asked], vocab: Vocab, max_length: int) -> None:
  """Raises InputError if an option is longer than the model's context.

  It does so before any task is scored, or a model is trained for hours.

  Args:
    asked: the items.
    vocab: the model's vocabulary.
    max_length: most tokens that the model reads.
  """
  encoder = Encoder(vocab, max_length)
  for task in asked:
    pairs = [
      pair
      for item in task.items
      if not isinstance(item, Prompt)
      for pair in items.pairs(item)
    ]
    try:
      encoder.check_fit(pairs)
    except errors.InputError as e:
      raise errors.InputError(f'{task.name}: {e}') from e


def _step(
  opened: trained.Trained, which: str, note: Callable[[str], None]
) -> int:
  """The step of the checkpoint that a user names."""
  with restore.checkpoints(opened.workdir, note) as saved:
    return saved.find(which).step


class Scorer:
  """Scores tasks and keeps their results in a workdir."""

  def __init__(
    self,
    workdir: str,
    run: Run,
    step: int,
    request: SuiteRequest,
    open_engine: Callable[[Callable[[int], None]], ModelEngine | ImageEngine],
    *,
    group: Group,
    note: Callable[[str], None],
  ):
    """Scores nothing yet.

    Args:
      workdir: of the model.
      run: its config.
      step: of its weights.
      request: what is asked.
      open_engine: makes the engine when the first task needs it, from a
        function that is called with numbers of texts that were cut.
      group: the processes; process 0 writes.
      note: is called with lines on the progress.
    """
    self._request, self._group, self._note = request, group, note
    self._open_engine = open_engine
    self._engine: ModelEngine | ImageEngine | None = None
    self._cut = 0
    self._made_with = {
      'step': step,
      'config': fingerprint(run),
      'limit': request.limit,
      'seed': request.seed,
    }
    folder = epath.Path(workdir) / FOLDER / request.suite
    self._folder = folder / f'step_{step}'
    if group.index == 0:
      files.check_writable(self._folder)

  def score(self, task: Asked, place: str) -> Result:
    """The result of a task; `place` names the task in lines on progress."""
    path = self._folder / f'{task.name}.json'
    draws = self._request.draws if suite.is_generated(task.items) else GREEDY
    made_with = self._made_with | _drawn(draws)
    kept = self._group.broadcast(
      f'result of {task.name}', lambda: self._kept(path, task, made_with)
    )
    if kept is not None:
      self._note(f'{place}: done before, in {path}')
      return Result.from_json(kept)
    self._note(f'{place}: {len(task.items)} items ...')
    began = time.monotonic()
    result = suite.score(
      task, self._open(), self._request.run, lambda: self._cut, draws
    )
    seconds = time.monotonic() - began
    self._note(f'{task.name}: {in_words(result)}, in {seconds:.0f} s')
    if self._group.index == 0:
      files.atomic_write_json(
        path,
        {
          'made_with': made_with,
          'seconds': seconds,
          'result': result.to_json(),
        },
      )
    return result

  def _kept(
    self, path: epath.Path, task: Asked, made_with: Mapping[str, Any]
  ) -> dict[str, Any] | None:
    """The result in a task's file, if it was made with the same."""
    if not path.exists():
      return None
    try:
      value = json.loads(path.read_text())
      result = Result.from_json(value['result'])
      # Earlier versions drew no samples, and wrote nothing about them.
      before = {**_drawn(GREEDY), **value['made_with']}
    except (ValueError, TypeError, KeyError):
      self._note(f'{path} is of another version; it is made anew')
      return None
    differing = [key for key, x in made_with.items() if before.get(key) != x]
    if result.digest != task.digest:
      differing.append('prompts')
    if differing:
      self._note(
        f'{path} was made with other {", ".join(differing)}; it is made anew'
      )
      return None
    return value['result']

  def _open(self) -> ModelEngine | ImageEngine:
    """The engine, with its weights."""
    if self._engine is None:
      self._engine = self._open_engine(self._count_cut)
    return self._engine

  def _count_cut(self, count: int) -> None:
    self._cut += count


def _drawn(draws: Draws) -> dict[str, Any]:
  """How a task's texts are drawn, as files of results say it."""
  return {'samples': draws.samples, 'temperature': draws.temperature}


def fingerprint(run: Run) -> str:
  """A hash of the config keys that change what a trained model computes."""
  tree = config_tree.to_dict(run)
  kept = {'model': tree['model'], 'vocab': tree['data']['vocab']}
  if run.model.vision != TextOnly():
    images = tree['data']['images']
    kept['images'] = {key: images[key] for key in ('prepare', 'read', 'token')}
  text = json.dumps(kept, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def in_words(result: Result) -> str:
  """The score with its standard error, and how many texts were cut."""
  error = '' if result.stderr is None else f' ± {result.stderr:.4f}'
  cut = f', {result.cut} texts cut' if result.cut else ''
  return f'{result.metric} {result.score:.4f}{error}{cut}'


def short(result: Result) -> dict[str, Any]:
  """The result as JSON, without the values of single items."""
  return {k: v for k, v in result.to_json().items() if k != 'values'}


def to_json(
  scored: Sequence[Scored], request: SuiteRequest
) -> Mapping[str, Any]:
  """All results, without the values of single items."""
  return {
    'suite': request.suite,
    'data': request.data,
    'limit': request.limit,
    'seed': request.seed,
    **_drawn(request.draws),
    'runs': [
      {
        'workdir': one.workdir,
        'step': one.step,
        'tasks': {name: short(result) for name, result in one.results.items()},
      }
      for one in scored
    ],
  }


def check_workdirs(workdirs: Sequence[str]) -> None:
  """Raises InputError if a workdir is named twice."""
  if len({str(epath.Path(each)) for each in workdirs}) < len(workdirs):
    raise errors.InputError(
      f'--workdir={",".join(workdirs)} names a workdir twice: leave one out'
    )
