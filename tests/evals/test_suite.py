"""Prompts, results of benchmarks, and the paired tests between two of them."""

import dataclasses
import json
import math

import numpy as np
import pytest
from scipy import stats

from moejax.core import errors
from moejax.evals import judges, paired, prompts, suite
from moejax.evals.benchmark import (
  Benchmark,
  Choice,
  Cloze,
  Dataset,
  Likelihood,
  Prompt,
)

COLUMNS = {'q': str, 'options': list, 'answer': int, 'subject': str}


def _row(q, answer=0, subject='', options=(' no', ' yes')):
  return {
    'q': q,
    'options': [*options],
    'answer': answer,
    'subject': subject,
  }


QUESTIONS = [
  _row('a?', 0, 'x'),
  _row('b?', 1, 'y'),
  _row('c?', 1, 'y'),
  _row('d?', 0, 'y'),
]
SOLVED = [_row(f's{i}', i % 2, 'xy'[i % 2]) for i in range(6)]


def _benchmark(rows=QUESTIONS, solved=SOLVED, **changes):
  splits = {'test': rows, 'dev': solved}
  dataset = Dataset(
    '', '', 'test', COLUMNS, shots_split='dev', rows=splits.__getitem__
  )
  options = {
    'item': lambda row: Choice(
      (f'{row["q"]}',) * len(row['options']),
      tuple(row['options']),
      row['answer'],
      group=row['subject'],
    ),
    'show': lambda row: row['q'] + row['options'][row['answer']],
    'between': ' | ',
  }
  return Benchmark(dataset, metric='acc', **(options | changes))


def _ask(benchmark, **options):
  return prompts.ask('quiz', benchmark, 'hub', **options)


def _contexts(benchmark, **options):
  return [item.contexts[0] for item in _ask(benchmark, **options).items]


class Engine:
  """Prefers ' yes' by one nat; a target's log-probability is its length."""

  def __init__(self):
    self.asked = []

  def likelihoods(self, pairs):
    self.asked += pairs
    return [
      Likelihood(
        1.0 if option == ' yes' else -float(len(option)),
        greedy=option == ' yes',
        tokens=1,
      )
      for _, option in pairs
    ]

  def generate(self, prompts):
    return [prompt.text.upper() for prompt in prompts]


def test_solved_rows_stand_before_the_question_and_after_the_header():
  benchmark = _benchmark(
    shots=2, first=True, header=lambda row: f'On {row["subject"]}: '
  )
  assert _contexts(benchmark) == [
    'On x: s0 no | s1 yes | a?',
    'On y: s0 no | s1 yes | b?',
    'On y: s0 no | s1 yes | c?',
    'On y: s0 no | s1 yes | d?',
  ]
  own = dataclasses.replace(benchmark, shots_by_group=True)
  assert _contexts(own)[:2] == [
    'On x: s0 no | s2 no | a?',
    'On y: s1 yes | s3 yes | b?',
  ]
  fixed = dataclasses.replace(
    benchmark, fixed=lambda rows: [rows[5], rows[3]], header=lambda _: ''
  )
  assert _contexts(fixed)[0] == 's5 yes | s3 yes | a?'


def test_drawn_rows_depend_on_the_seed_and_the_number_of_the_question():
  benchmark = _benchmark([QUESTIONS[0]] * 40, shots=3)
  drawn = _contexts(benchmark)
  assert drawn == _contexts(benchmark)
  # A limit, or another process that has half of the items, changes nothing.
  assert drawn[:7] == _contexts(benchmark, limit=7)
  assert drawn != _contexts(benchmark, seed=1)
  shown = [context.split(' | ')[:-1] for context in drawn]
  assert all(len(set(solved)) == 3 for solved in shown)
  assert len({tuple(solved) for solved in shown}) > 20


def test_draws_are_uniform():
  pool = [{'i': i} for i in range(5)]
  drawn = [
    [row['i'] for row in prompts.draw(pool, 2, str(key))] for key in range(4000)
  ]
  counts = np.zeros((5, 5))
  for a, b in drawn:
    counts[a, b] += 1
  assert np.trace(counts) == 0
  off = counts[~np.eye(5, dtype=bool)]
  assert stats.chisquare(off).pvalue > 1e-3
  every = [row['i'] for row in prompts.draw(pool, 9, 'x')]
  assert sorted(every) == [0, 1, 2, 3, 4]


def test_a_question_is_not_shown_solved_before_itself():
  benchmark = _benchmark(QUESTIONS, QUESTIONS, shots=3, show=lambda r: r['q'])
  benchmark = dataclasses.replace(
    benchmark,
    dataset=dataclasses.replace(benchmark.dataset, shots_split='test'),
  )
  for context in _contexts(benchmark):
    assert sorted(context.split(' | ')) == ['a?', 'b?', 'c?', 'd?']
  with pytest.raises(errors.InputError, match='4 solved rows, but .* has 3'):
    _ask(dataclasses.replace(benchmark, shots=4))


@pytest.mark.parametrize(
  ('row', 'words'),
  [
    (_row('x', 2), 'test row 1: the answer is option 2 of 2'),
    (_row('x', -1), 'the answer is option -1 of 2'),
    (_row('x', options=('a', ' ')), 'test row 1: option 1 is empty'),
    (_row('x', options=('a',)), 'test row 1: there is one option'),
    ({'q': 'x'}, 'options'),
  ],
)
def test_a_row_that_cannot_be_asked_is_named(row, words):
  with pytest.raises(errors.InputError) as error:
    _ask(_benchmark([row]))
  assert words in str(error.value)
  assert '\n' not in str(error.value)


def test_a_solved_row_that_cannot_be_shown_is_named():
  solved = [_row('s', 0), _row('t', 9)]
  with pytest.raises(errors.InputError, match=r'dev row 2: .*\(IndexError'):
    _ask(_benchmark(solved=solved, shots=2, first=True))

  def show(row):
    return judges.exact_match([] if row['q'] == 't' else ['x'])(row['q'])

  with pytest.raises(
    errors.InputError, match='dev row 2: the row has no right'
  ):
    _ask(_benchmark(solved=solved, shots=2, show=show))


def test_a_row_that_cannot_be_arranged_is_named():
  def arrange(rows):
    return [{**row, 'right': row['options'][row['answer']]} for row in rows]

  questions = [*QUESTIONS, _row('e?', 9)]
  with pytest.raises(errors.InputError, match=r'test row 5: .*\(IndexError'):
    _ask(_benchmark(questions, arrange=arrange))


def test_other_items_that_cannot_be_asked():
  def fails(row):
    return row['options'].index('never')

  with pytest.raises(errors.InputError, match=r'cannot be asked \(ValueError'):
    _ask(_benchmark(item=fails))
  with pytest.raises(errors.InputError, match='the target is empty'):
    _ask(_benchmark(item=lambda row: Cloze(row['q'], ' ')))
  empty = lambda row: Prompt(row['q'], judge=lambda _: {}, stops=('\n', ''))
  with pytest.raises(errors.InputError, match='a stop string is empty'):
    _ask(_benchmark(item=empty))
  with pytest.raises(errors.InputError, match='all 4 rows of split'):
    _ask(_benchmark(item=lambda row: None))


def test_the_digest_is_of_what_the_model_reads_and_of_the_answers():
  digest = _ask(_benchmark()).digest
  assert digest == _ask(_benchmark()).digest
  others = [
    _benchmark(header=lambda _: 'x'),
    _benchmark([_row('a?', 1, 'x'), *QUESTIONS[1:]]),
    _benchmark(QUESTIONS[::-1]),
  ]
  digests = {digest, *(_ask(other).digest for other in others)}
  assert len(digests) == 4


def test_means_errors_and_groups_are_those_worked_by_hand():
  # ' yes' is always preferred: a and d are wrong, b and c right.
  result = suite.score(_ask(_benchmark()), Engine())
  assert result.values['acc'] == [0, 1, 1, 0]
  assert result.score == 0.5
  # The sample's variance is 4 * 0.25 / 3, its mean's a fourth of that.
  assert result.stderr == pytest.approx(math.sqrt(1 / 3 / 4))
  assert result.groups['x']['acc'] == 0
  assert result.groups['y'] == pytest.approx(
    result.groups['y'] | {'acc': 2 / 3, 'items': 3}
  )
  assert suite.Result.from_json(json.loads(json.dumps(result.to_json()))) == (
    result
  )


def test_groups_may_count_the_same():
  benchmark = _benchmark([*QUESTIONS, _row('e?', 1, 'x')], group_mean=True)
  result = suite.score(_ask(benchmark), Engine())
  # x: 0, 1; y: 1, 1, 0. Variances of the means: 0.5 / 2 and (1 / 3) / 3.
  assert result.score == pytest.approx((1 / 2 + 2 / 3) / 2)
  assert result.stderr == pytest.approx(math.sqrt(1 / 4 + 1 / 9) / 2)


def test_the_perplexity_of_targets_is_that_of_their_mean():
  benchmark = _benchmark(item=lambda row: Cloze(row['q'], row['options'][0]))
  result = suite.score(_ask(benchmark), Engine())
  assert result.means['nll'] == 3
  assert result.means['perplexity'] == pytest.approx(math.exp(3))
  assert result.errors['perplexity'] == 0
  wrong = dataclasses.replace(benchmark, metric='f1')
  with pytest.raises(errors.InputError, match="counts 'f1', but .* acc, nll"):
    suite.score(_ask(wrong), Engine())


def test_items_of_all_kinds_keep_their_order():
  def item(row):
    if row['subject'] == 'x':
      return Prompt(row['q'], judge=lambda t: {'acc': float(t == 'A?')})
    return Cloze(row['q'], row['options'][row['answer']])

  engine = Engine()
  result = suite.score(_ask(_benchmark(item=item)), engine)
  assert result.values['acc'] == [1, 1, 1, 0]
  assert result.values['nll'] == [None, -1, -1, 3]
  assert result.means['nll'] == pytest.approx(1 / 3)
  assert len(engine.asked) == 3


def test_cut_texts_and_left_out_rows_are_counted():
  cuts = iter([5, 7])
  some = lambda row: Cloze(row['q'], ' x') if row['answer'] else None
  asked = _ask(_benchmark(item=some))
  result = suite.score(asked, Engine(), cut=lambda: next(cuts))
  assert (result.items, result.left_out, result.cut) == (2, 2, 2)


def test_programs_are_refused_before_anything_is_generated():
  class Silent(Engine):
    def generate(self, prompts):
      raise AssertionError('generated')

  benchmark = _benchmark(item=lambda row: Prompt(row['q'], program=str))
  with pytest.raises(errors.InputError, match='--run_generated_code'):
    suite.score(_ask(benchmark), Silent())
  benchmark = dataclasses.replace(benchmark, metric='pass@1')
  result = suite.score(
    _ask(benchmark), Engine(), run=lambda p: [x == 'A?' for x in p]
  )
  assert result.values['pass@1'] == [1, 0, 0, 0]


def test_a_suite_or_task_that_is_not_there_has_its_nearest():
  suites = {'paper': {'quiz': _benchmark(), 'maths': _benchmark()}}
  assert [*suite.choose(suites, 'paper')] == ['quiz', 'maths']
  assert [*suite.choose(suites, 'paper', ['maths'])] == ['maths']
  with pytest.raises(errors.InputError, match="did you mean 'paper'"):
    suite.choose(suites, 'papers')
  with pytest.raises(errors.InputError, match="paper 'math'; did you mean"):
    suite.choose(suites, 'paper', ['math'])


@pytest.mark.parametrize(
  ('better', 'worse'), [(0, 0), (1, 9), (30, 12), (7, 7)]
)
def test_mcnemar_is_the_exact_test_of_a_fair_coin(better, worse):
  count = better + worse
  wanted = stats.binomtest(better, count).pvalue if count else 1
  assert paired.mcnemar(better, worse) == pytest.approx(wanted)


def test_the_bootstrap_has_the_level_of_a_t_test():
  stream = np.random.default_rng(1)
  for shift in (0.0, 0.1, 0.3):
    difference = stream.normal(shift, 1, 200)
    wanted = stats.ttest_1samp(difference, 0).pvalue
    assert paired.bootstrap(difference) == pytest.approx(wanted, abs=0.03)
  assert paired.bootstrap(np.zeros(5)) == 1
  assert paired.bootstrap(np.ones(5)) == 1 / paired.DRAWS


def _result(values, metric='acc', digest='d'):
  asked = prompts.Asked('quiz', _benchmark(), [], 0, digest)
  column = [*map(float, values)]
  return suite.Result(
    benchmark=asked.name,
    metric=metric,
    means={metric: float(np.mean(column))},
    errors={metric: None},
    groups={},
    values={metric: column},
    items=len(column),
    left_out=0,
    cut=0,
    shots=0,
    digest=digest,
    note='',
  )


def test_two_results_are_compared_item_by_item():
  first, second = _result([1, 0, 0, 0, 1]), _result([0, 1, 1, 1, 1])
  comparison = paired.compare(first, second)
  assert comparison.difference == pytest.approx(0.4)
  assert (comparison.better, comparison.worse) == (3, 1)
  assert comparison.test == 'mcnemar'
  # One or none of four fair coins is heads: 5 of 16, on either side.
  assert comparison.p == pytest.approx(0.625)
  other = paired.compare(_result([1.5, 2]), _result([1, 2.5]))
  assert other.test == 'bootstrap'


def test_results_of_other_prompts_are_not_compared():
  first = _result([1, 0])
  assert paired.compare(first, _result([1, 0], digest='e')) is None
  assert paired.compare(first, _result([1, 0], metric='acc_norm')) is None
