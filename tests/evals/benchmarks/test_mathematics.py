"""GSM8K and MATH: prompts and scores by hand; normal forms of answers."""

import pytest
from helpers.generated_cases import GeneratedCase, check

from moejax.core.errors import InputError
from moejax.evals.benchmarks import (
  BENCHMARKS,
  SUITES,
  latex_answers,
  mathematics,
)

GSM8K = [
  {
    'question': 'Ann has 3 pens and buys 4. How many has she?',
    'answer': 'She has 3 + 4 = <<3+4=7>>7 pens\nThat is all.\n#### 7',
  },
  {'question': 'What costs 2 dozen?', 'answer': 'It costs.\n#### 1,224'},
]
SOLVED = [
  {
    'question': f'What is {i} + 1?',
    'answer': f'{i} + 1 = <<{i}+1={i + 1}>>{i + 1}\n#### {i + 1}',
  }
  for i in range(9)
]
STEPS = "\nA: Let's think step by step."
CHAINS = ''.join(
  f'Q: What is {i} + 1?{STEPS} {i} + 1 = {i + 1}. The answer is {i + 1}.\n\n'
  for i in range(8)
)


def problem(text, solution, config='algebra'):
  return {
    'problem': text,
    'solution': solution,
    'level': 'Level 1',
    'type': config.title(),
    'config': config,
  }


MATH = [
  problem('Find half of one.', r'It is $\boxed{\frac{1}{2}}$.'),
  problem('Find a length.', r'It is $\boxed{12\text{ cm}}$.', 'geometry'),
  problem('Find $x$.', r'So $x = \boxed{3}$.', 'geometry'),
]
# The beginnings of the four problems are Minerva's; the rest is made.
FOUR = [
  problem('Other.', r'$\boxed{0}$.'),
  problem(
    'If the system of equations\n\n\\begin{align*}\n6x-4y&=a,\\\\ x',
    r'$\boxed{4}$.',
  ),
  problem('Terrell usually lifts two 20-pound weights.', r'$\boxed{3}$.'),
  problem(
    r'If $\det \mathbf{A} = 2$ and $\det \mathbf{B} = 12,$ then x.',
    r'$\boxed{2}$.',
    'geometry',
  ),
  problem(
    r'Find the domain of the expression  $\frac{\sqrt{x-2}}{\sqrt{5-x}}$.',
    r'$\boxed{1}$.',
    'geometry',
  ),
]


def shown(space):
  return ''.join(
    f'Problem:\n{row["problem"]}\n\nSolution:{space}{row["solution"]}\n'
    f'Final Answer: The final answer is ${i}$. I hope it is correct.\n\n'
    for i, row in enumerate(reversed(FOUR[1:]), 1)
  )


MATH_OUTPUTS = [
  ' Half. Final Answer: The final answer is $0.5$. I hope it is correct.\n\n'
  'Problem:\nFinal Answer: The final answer is $7$. I hope it is correct.',
  r' So $\boxed{7}$ or $\boxed{12}$ inches.',
  ' Final Answer: The final answer is $x=3$',
]
QUESTIONS = [f'Problem:\n{row["problem"]}\n\nSolution:' for row in MATH]
MATH_MEANS = {
  'exact_match': pytest.approx(2 / 3),
  'boxed': pytest.approx(1 / 3),
}

GSM8K_ASKED = [f'Question: {row["question"]}\nAnswer:' for row in GSM8K]
GSM8K_OUTPUTS = [
  ' 3 + 4 = 7\n#### 7\n\nQuestion: x #### 9',
  ' Each is 51, so $1,224.',
]

CASES = [
  GeneratedCase(
    'lm_eval',
    'minerva_math',
    MATH,
    [shown(' ') + question for question in QUESTIONS],
    MATH_OUTPUTS,
    MATH_MEANS,
    FOUR,
  ),
  GeneratedCase(
    'deepseekmoe',
    'math',
    MATH,
    [shown('\n') + question for question in QUESTIONS],
    MATH_OUTPUTS,
    MATH_MEANS,
    FOUR,
  ),
  GeneratedCase(
    'deepseekmoe',
    'gsm8k',
    GSM8K,
    [f'{CHAINS}Q: {row["question"]}{STEPS}' for row in GSM8K],
    [' 3 + 4 = 7. The answer is 7.\n\nQ: x', ' The answer is $1224, not 12.'],
    {'exact_match': 1.0, 'flexible': 0.5},
    SOLVED,
  ),
]


@pytest.mark.parametrize('case', CASES, ids=str)
def test_prompts_and_score_are_those_worked_by_hand(case, tmp_path):
  check(tmp_path, case)


def test_gsm8k_of_the_harness(tmp_path):
  # Five of the five solved rows, in the order that is drawn for each question.
  benchmark = BENCHMARKS['gsm8k']
  lines = [
    f'Question: {row["question"]}\nAnswer: {row["answer"]}'
    for row in SOLVED[:5]
  ]
  assert [benchmark.show(row) for row in SOLVED[:5]] == lines
  assert benchmark.shots == 5
  items = [benchmark.item(row) for row in GSM8K]
  assert [item.text for item in items] == GSM8K_ASKED
  values = [
    item.judge(text.split('Question:')[0])
    for item, text in zip(items, GSM8K_OUTPUTS, strict=True)
  ]
  assert values == [
    {'exact_match': 1.0, 'flexible': 1.0},
    {'exact_match': 0.0, 'flexible': 1.0},
  ]


def test_a_chain_of_thought_has_sentences_and_no_computed_marks():
  assert mathematics.chain(GSM8K[0]) == (
    ' She has 3 + 4 = 7 pens. That is all. The answer is 7.'
  )


@pytest.mark.parametrize(
  ('text', 'answer'),
  [
    (r'$x = \boxed{\frac{1}{2}}$.', r'\frac{1}{2}'),
    (r'\boxed{1} or \boxed{2}', '2'),
    (r'\fbox{3}', '3'),
    (r'$\boxed 5$ is it', '5'),
    (r'\boxed{open', None),
    ('none', None),
  ],
)
def test_the_last_box_holds_the_answer(text, answer):
  assert latex_answers.boxed(text) == answer


@pytest.mark.parametrize(
  ('text', 'answer'),
  [
    ('Final Answer: The final answer is $5$. I hope it is correct.', '$5$'),
    ('Final Answer: The final answer is $1.5$', '$1.5$'),
    ('Final Answer: The final answer is $5$.\n\nMore.', '$5$.'),
    ('The final answer is $5$.', None),
  ],
)
def test_the_closing_sentence_names_the_answer(text, answer):
  assert latex_answers.final(text) == answer


@pytest.mark.parametrize(
  ('answer', 'normal'),
  [
    ('$x = \\frac12$', '\\frac{1}{2}'),
    ('1,000', '1000'),
    # A tuple is no number.
    ('0,1', '0,1'),
    ('(1, 2)', '(1,2)'),
    ('2\\pi cm', '2\\pi'),
    ('12\\text{ cm}', '12'),
    ('5 dollars', '5'),
    ('\\$5.00', '5.00'),
    ('30^\\circ', '30'),
    # `ft` is a unit, and not in \left.
    ('\\left(1,2\\right)', '\\left(1,2\\right)'),
    ('\\sqrt2', '\\sqrt{2}'),
    ('\\sqrt[3]8', '\\sqrt[3]{8}'),
    ('\\text{even}', 'even'),
    ('the value $7$ is right', '7'),
  ],
)
def test_answers_have_a_normal_form(answer, normal):
  assert latex_answers.normal(answer) == normal


@pytest.mark.parametrize(
  ('one', 'other', 'equal'),
  [
    ('0.5', '\\frac{1}{2}', True),
    ('\\frac{2}{4}', '1/2', True),
    ('-\\frac{1}{2}', '-.5', True),
    ('\\dfrac{1}{2}', '\\frac12', True),
    ('3.0', '3', True),
    ('3', '-3', False),
    ('1/0', '1', False),
    ('x+1', '1+x', False),
    ('x', 'x', True),
    # Longer than Python reads a number.
    ('1' * 5000, '2', False),
    (f'\\frac{{{"1" * 5000}}}{{2}}', '2', False),
  ],
)
def test_answers_are_equal_as_text_or_as_numbers(one, other, equal):
  assert latex_answers.equal(one, other) == equal


def test_a_row_without_its_answer_is_one_line():
  with pytest.raises(InputError, match='must end with a line'):
    BENCHMARKS['gsm8k'].item({'question': 'x', 'answer': 'y'})
  with pytest.raises(InputError, match='boxed'):
    SUITES['deepseekmoe']['math'].item(problem('x', 'y'))
  with pytest.raises(InputError, match='Terrell'):
    mathematics.minerva(FOUR[:2] + FOUR[3:])
