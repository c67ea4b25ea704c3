"""DROP: prompts, and em and f1 by hand."""

import pytest
from helpers.generated_cases import GeneratedCase, check

from moejax.evals.benchmarks import drop

NO_DATE = {'day': '', 'month': '', 'year': ''}
PASSAGE = 'Anna has 3 cats. Ben has 5 dogs and a bird.'


def answer(number='', spans=(), date=NO_DATE):
  return {'number': number, 'date': date, 'spans': list(spans)}


def row(question, first, *others, passage=PASSAGE):
  return {
    'section_id': 's',
    'query_id': question,
    'passage': passage,
    'question': question,
    'answer': first,
    'validated_answers': {
      'number': [other['number'] for other in others],
      'date': [other['date'] for other in others],
      'spans': [other['spans'] for other in others],
    },
  }


DATE = {'day': '4', 'month': 'May', 'year': '1901'}
ROWS = [
  row('How many dogs?', answer('5'), answer('5'), answer('', ['5 dogs'])),
  row('Who has pets?', answer('', ['Anna', 'Ben'])),
  row('When?', answer('', (), DATE), passage='It was on 4 May 1901.'),
]
ASKED = 'Answer the following questions based on the above passage, please '
ASKED += 'calculate carefully if calculation is necessary.\n'
SO = 'So according to above Passage, the answer is'

CASES = [
  # The numbers are equal; two spans are compared as one text, whose best
  # assignment covers one of two bags: precision 1/2, recall 1, halved.
  GeneratedCase(
    'lm_eval',
    'drop',
    ROWS,
    [
      f'{PASSAGE} How many dogs?',
      f'{PASSAGE} Who has pets?',
      'It was on 4 May 1901. When?',
    ],
    [' 5.0', ' Anna Ben.', ' 4 May.'],
    # f1 of {4.0, may} and {4.0, may, 1901.0} is 0.8.
    {'em': pytest.approx(1 / 3), 'f1': pytest.approx((1 + 0.33 + 0.8) / 3)},
  ),
  GeneratedCase(
    'deepseekmoe',
    'drop',
    ROWS,
    [
      f'Passage: {PASSAGE}\n\n{ASKED}'
      f'Q: Who has pets?\nA: The answer type is span. {SO} Anna, Ben.\n\n'
      f'Q: How many dogs?\nA: The answer type is number. {SO}',
      f'Passage: {PASSAGE}\n\n{ASKED}'
      f'Q: How many dogs?\nA: The answer type is number. {SO} 5.\n\n'
      f'Q: Who has pets?\nA: The answer type is span. {SO}',
      f'Passage: It was on 4 May 1901.\n\n{ASKED}'
      f'Q: When?\nA: The answer type is date. {SO}',
    ],
    [' 5.\n\nQ: x', ' Ben, Anna.', ' May 1901.'],
    {'em': pytest.approx(2 / 3), 'f1': pytest.approx((1 + 1 + 0.8) / 3)},
  ),
]


@pytest.mark.parametrize('case', CASES, ids=str)
def test_prompts_and_score_are_those_worked_by_hand(case, tmp_path):
  check(tmp_path, case)


@pytest.mark.parametrize(
  ('predicted', 'right', 'em', 'f1'),
  [
    (['the Big cat'], ['big cat!'], 1, 1.0),
    (['3'], ['3.0'], 1, 1.0),
    (['blue-green'], ['blue green'], 1, 1.0),
    # Without the right number nothing counts.
    (['4 red cats'], ['5 red cats'], 0, 0.0),
    (['5 cats'], ['5 red cats'], 0, 0.8),
    # The assignment is the best one: in order, both would be 0.
    (['q', 'p'], ['p', 'q'], 1, 1.0),
    # p to p r (2/3) and p q to q (2/3), not p to the first that fits.
    (['p q', 'p'], ['p r', 'q'], 0, 0.67),
    # A span too many has no partner.
    (['p', 'x', 'y'], ['p'], 0, 0.33),
    ([''], ['p'], 0, 0.0),
  ],
)
def test_spans_are_compared_after_the_best_assignment(predicted, right, em, f1):
  assert drop.compare(predicted, right) == {'em': em, 'f1': f1}


def test_the_best_annotator_counts_and_empty_answers_do_not():
  one = row('?', answer(), answer('', ['cat']), answer('', ['big cat']))
  assert drop.references(one) == [('cat',), ('big cat',)]
  assert drop.best(['big cat'], drop.references(one))['em'] == 1.0
  assert drop.best(['x'], []) == {'em': 0.0, 'f1': 0.0}
