"""Benchmarks while training: prompts made once, scores under their names."""

import json
import types

import jax
import pytest
from helpers import tiny

from moejax.config.run import EvalsConfig, ReportConfig, Run
from moejax.core import errors
from moejax.data.config import DataConfig
from moejax.data.vocab import Bytes
from moejax.evals import prompts, suite
from moejax.run import benchmark_hook, report
from moejax.run.context import Context

PIQA = [
  {'goal': 'Boil', 'sol1': 'Hot.', 'sol2': 'Cold.', 'label': 0},
  {'goal': 'Dry', 'sol1': 'Wet.', 'sol2': 'Up.', 'label': 1},
]


class Screen:
  def __init__(self):
    self.lines = []

  def line(self, text):
    self.lines.append(text)

  def track(self, items, *_):
    return iter(items)


@pytest.fixture
def rows(tmp_path):
  (tmp_path / 'piqa').mkdir()
  path = tmp_path / 'piqa' / 'validation.jsonl'
  path.write_text('\n'.join(map(json.dumps, PIQA)))
  return tmp_path


def _context(run, asked=()):
  config = tiny.model_config(
    moe={'num_experts': 4}, num_layers=1, vocab_size=259, max_length=64
  )
  model = tiny.model(config)
  data = types.SimpleNamespace(vocab=Bytes(), length=64)
  return Context(run, model, None, data, asked=asked)


def _evals(rows, **changes):
  options = {'suite': 'libmoe', 'tasks': 'piqa', 'data': str(rows)}
  return EvalsConfig(**(options | changes))


def test_scores_are_metrics_of_the_weights_at_that_step(rows, monkeypatch):
  screen = Screen()
  run = Run(evals=_evals(rows, every=7))
  asked = benchmark_hook.ask(run.evals, screen.line)
  monkeypatch.setattr(prompts, 'ask', None)  # not made anew in training
  context = _context(run, asked)
  ((every, hook),) = benchmark_hook.hooks(context, screen)
  assert every == 7
  weights = tiny.weights(context.model)
  other = jax.tree.map(lambda x: -x[::-1], weights)
  for at, own in ((7, weights), (14, other)):
    engine = benchmark_hook.engine(context, own, screen)
    wanted = suite.score(asked[0], engine).score
    scores = hook(at, types.SimpleNamespace(weights=own))
    assert scores == {'evals/piqa/acc_token_strict': wanted}


def test_without_a_suite_there_is_nothing_to_ask():
  assert benchmark_hook.ask(EvalsConfig(), print) == []
  assert benchmark_hook.hooks(_context(Run()), Screen()) == []
  assert benchmark_hook.report(_context(Run()), {}, '', Screen()) == {}


def test_what_cannot_be_asked_is_known_before_training(rows):
  with pytest.raises(errors.InputError, match="did you mean 'libmoe'"):
    benchmark_hook.ask(_evals(rows, suite='libmo'), print)
  missing = "^evals.data=.* no folder 'race'"
  with pytest.raises(errors.InputError, match=missing):
    benchmark_hook.ask(_evals(rows, tasks='race'), print)
  made_up = DataConfig(mixture='synthetic')
  run = Run(data=made_up, report=ReportConfig(suite='offline'))
  context = _context(run)
  context.data.vocab = None
  with pytest.raises(errors.InputError, match='report.suite=offline needs'):
    benchmark_hook.check(context)


def test_an_option_that_does_not_fit_is_known_before_training(rows):
  run = Run(evals=_evals(rows))
  path = rows / 'piqa' / 'validation.jsonl'
  # With its space, 64 bytes are read in a context of 64, and 65 are not.
  for length, fits in ((63, True), (64, False)):
    path.write_text(json.dumps({**PIQA[0], 'sol2': 'x' * length}))
    context = _context(run, benchmark_hook.ask(run.evals, print))
    if fits:
      benchmark_hook.check(context)
      continue
    with pytest.raises(errors.InputError, match='piqa: the continuation .* 65'):
      benchmark_hook.check(context)


def test_the_report_keeps_its_results_for_the_command(
  rows, tmp_path, monkeypatch
):
  asked = benchmark_hook.ask(_evals(rows), print)
  monkeypatch.setattr(benchmark_hook.suites, 'ask', lambda _: asked)
  run = Run(report=ReportConfig(suite='libmoe'))
  context, screen = _context(run), Screen()
  weights = tiny.weights(context.model)
  args = context, weights, str(tmp_path), screen
  results = benchmark_hook.report(*args)
  assert results['piqa']['items'] == 2
  step = run.train.steps
  kept = tmp_path / 'evals' / 'libmoe' / f'step_{step}' / 'piqa.json'
  assert json.loads(kept.read_text())['result']['digest'] == asked[0].digest
  monkeypatch.setattr(suite, 'score', None)
  assert benchmark_hook.report(*args) == results
  lines = report._benchmark_lines(results)
  assert any('piqa' in line and 'acc_token_strict' in line for line in lines)


def test_a_task_that_does_not_fit_is_left_out_of_the_report(
  rows, tmp_path, monkeypatch
):
  """The options of the second task are longer than the context."""
  (rows / 'social_iqa').mkdir()
  row = {'context': 'A', 'question': 'B', 'answerA': 'x' * 70, 'label': '1'}
  row |= {'answerB': 'y', 'answerC': 'z'}
  path = rows / 'social_iqa' / 'validation.jsonl'
  path.write_text(json.dumps(row))
  tasks = 'social_iqa,piqa'
  asked = benchmark_hook.ask(_evals(rows, tasks=tasks), print)
  monkeypatch.setattr(benchmark_hook.suites, 'ask', lambda _: asked)
  context, screen = _context(Run(report=ReportConfig(suite='libmoe'))), Screen()
  weights = tiny.weights(context.model)
  results = benchmark_hook.report(context, weights, str(tmp_path), screen)
  assert [*results] == ['piqa']
  (line,) = [x for x in screen.lines if x.startswith('social_iqa is left out')]
  assert 'tokens, but the model reads 64; shorten it' in line
