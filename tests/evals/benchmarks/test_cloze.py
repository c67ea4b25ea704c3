"""LAMBADA and the Children's Book Test: items and scores by hand."""

import pytest
from helpers.benchmark_cases import Case, check

from moejax.core.errors import InputError
from moejax.evals.benchmark import Choice, Cloze
from moejax.evals.benchmarks import BENCHMARKS

LAMBADA = [
  {'text': 'The dog barked until the cat saw the dog'},
  {'text': 'He asked for tea,  and she brought tea'},
]
LAMBADA_ITEMS = [
  Cloze('The dog barked until the cat saw the', ' dog'),
  Cloze('He asked for tea,  and she brought', ' tea'),
]
# The fake engine calls a log-probability above -1 that of the likeliest tokens.
LAMBADA_ENGINE = {' dog': (-0.5, 1), ' tea': (-1.5, 1)}

SENTENCES = [
  'The king had a dog .',
  "`` It barks , '' said he .",
  *['They walked on .'] * 18,
]
TOLD = 'The king had a dog. "It barks," said he. ' + ' '.join(
  ['They walked on.'] * 18
)
OPTIONS = [
  'dog', 'king', 'sea', 'hat', 'sun', 'cat', 'tree', 'road', 'day', 'wood'
]  # fmt: skip
CBT = [
  {
    'sentences': SENTENCES,
    'question': "The XXXXX did n't bark , and the king laughed .",
    'answer': 'dog',
    'options': OPTIONS,
    'config': 'CN',
  },
  {
    'sentences': SENTENCES,
    'question': '`` XXXXX !',
    'answer': 'king',
    'options': OPTIONS,
    'config': 'NE',
  },
]
REST = " didn't bark, and the king laughed."
CBT_ITEMS = [
  Choice(
    (f'{TOLD} The',) * 10,
    tuple(f' {option}{REST}' for option in OPTIONS),
    0,
    tuple(f'{option}{REST}' for option in OPTIONS),
    'CN',
  ),
  Choice(
    (f'{TOLD} "',) * 10,
    tuple(f'{option}!' for option in OPTIONS),
    1,
    tuple(f'{option}!' for option in OPTIONS),
    'NE',
  ),
]
CBT_ENGINE = (
  {f' {option}{REST}': (-9.0, 9) for option in OPTIONS}
  | {f' dog{REST}': (-8.0, 9)}
  | {f'{option}!': (-3.0, 2) for option in OPTIONS}
)

CASES = [
  Case(
    'lm_eval', 'lambada_openai', LAMBADA, LAMBADA_ITEMS, LAMBADA_ENGINE, 0.5
  ),
  Case('libmoe', 'lambada_openai', LAMBADA, LAMBADA_ITEMS, LAMBADA_ENGINE, 0.5),
  # In the second row all options are equal: the first, `dog`, is the answer.
  Case('lm_eval', 'cbt', CBT, CBT_ITEMS, CBT_ENGINE, 0.5),
  # Of three rows two are right, but all and half of two groups.
  Case(
    'libmoe',
    'cbt',
    [*CBT, CBT[0]],
    [*CBT_ITEMS, CBT_ITEMS[0]],
    CBT_ENGINE,
    0.5,
  ),
]


@pytest.mark.parametrize('case', CASES, ids=str)
def test_items_and_score(case):
  check(case)


@pytest.mark.parametrize(
  ('name', 'row', 'message'),
  [
    ('lambada_openai', {'text': 'word'}, 'does not end in a space and a word'),
    ('lambada_openai', {'text': 'two words '}, 'does not end in a space'),
    ('cbt', CBT[0] | {'question': 'None .'}, "no blank 'XXXXX'"),
    ('cbt', CBT[0] | {'answer': 'cow'}, "'answer' is 'cow'"),
  ],
)
def test_a_bad_row_has_one_clear_line(name, row, message):
  with pytest.raises(InputError, match=message) as error:
    BENCHMARKS[name].item(row)
  assert '\n' not in str(error.value)
