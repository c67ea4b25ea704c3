"""Which results of a workdir count: those made with all that is the same."""

import dataclasses

import pytest

from moejax.config import Run
from moejax.data.vocab import Bytes
from moejax.evals import suite
from moejax.evals.benchmark import Prompt
from moejax.evals.draws import Draws
from moejax.evals.prompts import Asked
from moejax.parallel.group import SINGLE
from moejax.run import suites

TASK = Asked('a', None, [Prompt('1 + 1 =', lambda _: {'acc': 1.0})], 0, 'x')
REQUEST = suites.SuiteRequest('lm_eval', limit=3, seed=1, draws=Draws(2, 0.5))
RESULT = suite.Result(
  'a', 'acc', {'acc': 1.0}, {'acc': None}, {}, {'acc': [1.0]},
  items=1, left_out=0, cut=0, shots=0, digest='x', note='',
)  # fmt: skip
OTHER_VOCAB, OTHER_MODEL = (
  dataclasses.replace(Run(), **{name: dataclasses.replace(node, **changes)})
  for name, node, changes in (
    ('data', Run().data, {'vocab': Bytes()}),
    ('model', Run().model, {'norm_eps': 1e-3}),
  )
)


@pytest.fixture
def score(tmp_path, monkeypatch):
  """Scores the task, and returns (whether it was computed, the lines)."""

  def run(task=TASK, run=None, step=7, request=REQUEST):
    computed, lines = [], []
    monkeypatch.setattr(suite, 'score', lambda *_: computed.append(1) or RESULT)
    scorer = suites.Scorer(
      str(tmp_path),
      run or Run(),
      step,
      request,
      lambda cut: None,
      group=SINGLE,
      note=lines.append,
    )
    scorer.score(task, 'a (1 of 1)')
    return bool(computed), lines

  return run


def test_a_result_made_with_the_same_counts(score):
  assert score()[0]
  computed, (line,) = score()
  assert not computed
  assert line.startswith('a (1 of 1): done before, in ')


@pytest.mark.parametrize(
  ('change', 'named'),
  [
    ({'request': dataclasses.replace(REQUEST, limit=4)}, 'limit'),
    ({'request': dataclasses.replace(REQUEST, seed=2)}, 'seed'),
    ({'request': dataclasses.replace(REQUEST, draws=Draws(3, 0.5))}, 'samples'),
    (
      {'request': dataclasses.replace(REQUEST, draws=Draws(2, 0.6))},
      'temperature',
    ),
    ({'task': dataclasses.replace(TASK, digest='y')}, 'prompts'),
    ({'run': OTHER_VOCAB}, 'config'),
    ({'run': OTHER_MODEL}, 'config'),
  ],
)
def test_a_result_made_with_others_is_made_anew(change, named, score):
  assert score()[0]
  computed, lines = score(**change)
  assert computed
  assert f'was made with other {named}; it is made anew' in lines[0]


def test_a_result_of_another_step_does_not_count(score, tmp_path):
  """Even if its folder was renamed."""
  assert score(step=7)[0]
  assert score(step=8)[0]
  folder = tmp_path / 'evals' / 'lm_eval'
  (folder / 'step_7').rename(folder / 'step_9')
  computed, lines = score(step=9)
  assert computed
  assert 'was made with other step; it is made anew' in lines[0]


def test_what_changes_no_weights_changes_no_result(score):
  own = Run()
  train = dataclasses.replace(own.train, steps=own.train.steps + 1)
  assert score()[0]
  assert not score(run=dataclasses.replace(own, train=train))[0]
