"""Benchmarks while a model trains and in its report: `evals`, `report.suite`.

The prompts are made once, before training begins, so that rows that cannot be
read end a run before its first step.
"""

from collections.abc import Callable
from typing import Any

from moejax.config.run import EvalsConfig
from moejax.convert import companions
from moejax.core import errors
from moejax.evals import suite
from moejax.evals.engine import ModelEngine
from moejax.evals.prompts import Asked
from moejax.model.build import Weights
from moejax.run import suites
from moejax.run.context import Context
from moejax.run.screen import Screen
from moejax.train.loop import Hook
from moejax.train.state import State


def ask(config: EvalsConfig, note: Callable[[str], None]) -> list[Asked]:
  """The items of the benchmarks that are asked while training.

  Raises:
    InputError: an unknown suite or task, or rows that cannot be read or asked.
  """
  if not config.suite:
    return []
  request = suites.SuiteRequest(
    suite=config.suite,
    tasks=[*filter(None, config.tasks.split(','))],
    data=config.data,
    limit=config.limit,
  )
  try:
    return suites.ask(request, note)
  except errors.InputError as e:
    # The flags of `cli.evaluate` are keys here.
    raise errors.InputError(str(e).replace('--data=', 'evals.data=')) from e


def check(context: Context) -> None:
  """Raises InputError if the model cannot be asked the benchmarks.

  There is no text to ask them in, or an option does not fit its context.
  """
  for key in ('evals', 'report'):
    wanted = getattr(context.run, key).suite
    if wanted and context.data.vocab is None:
      raise errors.InputError(
        f'{key}.suite={wanted} needs a vocabulary, and '
        f'data.mixture={context.run.data.mixture} has made-up rows without '
        'one: leave the suite out'
      )
  vocab = context.data.vocab
  if context.asked and vocab is not None:
    suites.check_fit(context.asked, vocab, context.model.config.max_length)


def hooks(context: Context, screen: Screen) -> list[tuple[int, Hook]]:
  """The evaluation of `evals.*` with its period; none without a suite."""
  if not context.asked:
    return []

  def hook(step: int, state: State) -> dict[str, float]:
    del step
    asked_engine = engine(context, state.weights, screen)
    scores = {}
    for task in context.asked:
      result = suite.score(task, asked_engine)
      scores[f'evals/{task.name}/{result.metric}'] = result.score
    return scores

  return [(context.run.evals.every, hook)]


def engine(
  context: Context, weights: Weights, screen: Screen, **options: Any
) -> ModelEngine:
  """The engine of a model in training."""
  vocab = context.data.vocab
  assert vocab is not None  # by `check`
  return ModelEngine(
    context.model,
    weights,
    vocab,
    end_ids=companions.end_ids(None, vocab),
    track=screen.track,
    **options,
  )


def report(
  context: Context, weights: Weights, folder: str, screen: Screen
) -> dict[str, dict[str, Any]]:
  """The results of `report.suite`, by task; {} without a suite.

  They are kept in the workdir as those of `cli.evaluate`, which then need not
  be computed again.
  """
  run = context.run
  if not run.report.suite:
    return {}
  request = suites.SuiteRequest(suite=run.report.suite)
  scorer = suites.Scorer(
    folder,
    run,
    run.train.steps,
    request,
    lambda cut: engine(context, weights, screen, cut=cut),
    group=context.processes.group,
    note=screen.line,
  )
  results = {}
  for task in suites.ask(request):
    try:
      results[task.name] = suites.short(scorer.score(task, task.name))
    except errors.InputError as e:
      # Of a model with a short context; the run is finished all the same.
      screen.line(f'{task.name} is left out of the report: {e}')
  return results
