"""TriviaQA and NaturalQuestions: prompts and scores by hand."""

import pytest
from helpers.generated_cases import GeneratedCase, check

from moejax.evals.benchmarks import questions


def trivia(question, value, aliases):
  return {
    'question': question,
    'question_id': 'made_1',
    'question_source': 'made',
    'answer': {'value': value, 'aliases': aliases, 'type': 'Made'},
  }


TRIVIA = [
  trivia('Who baked the bread?', 'Anna', ['Anna', 'Anna B.', 'The Baker']),
  trivia('Where is the sea?', 'The West', ['The West']),
  trivia('How old is he?', '7', ['7', 'seven']),
]
TRIVIA_SOLVED = [
  trivia(f'What is {i}?', f'Number {i}', [f'No. {i}']) for i in range(6)
]
SHOWN = ''.join(f'Q: What is {i}?\nA: No. {i}\n' for i in range(5))
NATURAL = [
  {'question': 'who swam first', 'answer': ['A Fish', 'The Big Fish']},
  {'question': 'where does it rain', 'answer': ['everywhere']},
]
NATURAL_SOLVED = [
  {'question': f'what is {i}', 'answer': [f'n{i}', 'x']} for i in range(6)
]
NATURAL_SHOWN = ''.join(f'Q: What is {i}?\nA: n{i}\n' for i in range(5))

CASES = [
  # Punctuation and case do not count, articles do; a comma ends the answer.
  GeneratedCase(
    'lm_eval',
    'triviaqa',
    TRIVIA,
    [
      'Question: Who baked the bread??\nAnswer:',
      'Question: Where is the sea??\nAnswer:',
      'Question: How old is he??\nAnswer:',
    ],
    [' the baker, I think', ' West', ' "Seven"\nQuestion:'],
    {'exact_match': pytest.approx(2 / 3)},
  ),
  # Here articles do not count, and a comma is part of the answer.
  GeneratedCase(
    'deepseekmoe',
    'triviaqa',
    TRIVIA,
    [
      f'Answer these questions:\n{SHOWN}Q: Who baked the bread?\nA:',
      f'Answer these questions:\n{SHOWN}Q: Where is the sea?\nA:',
      f'Answer these questions:\n{SHOWN}Q: How old is he?\nA:',
    ],
    [' the baker, I think', ' West', ' "Seven"\nQ:'],
    {'exact_match': pytest.approx(2 / 3)},
    TRIVIA_SOLVED,
  ),
  GeneratedCase(
    'lm_eval',
    'nq_open',
    NATURAL,
    [
      'Answer these questions:\n\nQ: who swam first?\nA:',
      'Answer these questions:\n\nQ: where does it rain?\nA:',
    ],
    [' the big fish.', ' nowhere'],
    {'exact_match': 0.5},
  ),
  GeneratedCase(
    'deepseekmoe',
    'naturalquestions',
    NATURAL,
    [
      f'Answer these questions:\n{NATURAL_SHOWN}Q: Who swam first?\nA:',
      f'Answer these questions:\n{NATURAL_SHOWN}Q: Where does it rain?\nA:',
    ],
    [' fish\nQ: x', ' Everywhere.\n'],
    {'exact_match': 1.0},
    NATURAL_SOLVED,
  ),
]


@pytest.mark.parametrize('case', CASES, ids=str)
def test_prompts_and_score_are_those_worked_by_hand(case, tmp_path):
  check(tmp_path, case)


def test_the_harness_removes_an_article_with_its_space():
  assert questions.without_articles('The cat and a dog') == 'cat and dog'
  assert questions.without_articles('Theory of an idea') == 'theory of idea'
