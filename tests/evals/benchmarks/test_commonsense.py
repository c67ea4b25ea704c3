"""Common sense: rows in the published schemas, items and scores by hand.

The rows were written for these tests; none is of the datasets.
"""

import pytest
from helpers.benchmark_cases import Case, check

from moejax.core.errors import InputError
from moejax.evals.benchmark import Choice
from moejax.evals.benchmarks import BENCHMARKS, SUITES


def same(context, options, answer, texts=None, **fields):
  """An item whose options all follow the same context."""
  texts = tuple(texts or (option.strip() for option in options))
  contexts = (context,) * len(options)
  return Choice(contexts, tuple(options), answer, texts, **fields)


HELLASWAG = [
  {
    'ind': 3,
    'activity_label': 'Baking bread',
    'ctx_a': 'A woman kneads dough on a table.',
    'ctx_b': 'she',
    'ctx': 'A woman kneads dough on a table. she',
    'endings': ['puts it in a tin.', 'paints it.', 'swims.', 'reads it.'],
    'source_id': 'made~1',
    'split': 'val',
    'split_type': 'indomain',
    'label': '0',
  },
  {
    'ind': 4,
    'activity_label': 'Home and Garden',
    'ctx_a': '[header] How to dig [title] Find a spade. [step] Look around.',
    'ctx_b': '',
    'ctx': '[header] How to dig [title] Find a spade. [step] Look around.',
    'endings': [
      'Fly away. [substeps] Now.',
      'Sleep.',
      'Ask  a friend.',
      'Eat [title] Stop.',
    ],
    'source_id': 'made~2',
    'split': 'val',
    'split_type': 'zeroshot',
    'label': '2',
  },
]
BAKING = 'Baking bread: A woman kneads dough on a table. She'
BREAD = (' puts it in a tin.', ' paints it.', ' swims.', ' reads it.')
DIGGING = 'Home and Garden: How to dig. Find a spade. Look around.'
HELLASWAG_ITEMS = [
  same(BAKING, BREAD, 0),
  same(
    DIGGING,
    (' Fly away. Now.', ' Sleep.', ' Ask a friend.', ' Eat. Stop.'),
    2,
  ),
]
# The sums prefer short endings. Per character the first row is right (-0.18
# against -0.3, -0.43, -0.44) and the second is not (-0.46 against -0.45);
# per token both are: -0.6 against -1.0, and -1.5 against -2.0.
HELLASWAG_ENGINE = {
  ' puts it in a tin.': (-3.0, 5),
  ' paints it.': (-3.0, 3),
  ' swims.': (-2.6, 2),
  ' reads it.': (-4.0, 3),
  ' Fly away. Now.': (-9.0, 4),
  ' Sleep.': (-2.7, 1),
  ' Ask a friend.': (-6.0, 4),
  ' Eat. Stop.': (-8.0, 4),
  # As LibMoE leaves the texts.
  ' Fly away. [substeps] Now.': (-9.0, 4),
}

PIQA = [
  {'goal': 'To dry a wet book,', 'sol1': 'boil it.', 'sol2': 'air it.'}
  | {'label': 1},
  {'goal': 'Open a jar', 'sol1': 'turn the lid.', 'sol2': 'sing.'}
  | {'label': 0},
]
# Per token: -1.5 against -1.0, right; -1.25 against -1.0, wrong. Per
# character: -0.375 against -0.286, right; -0.385 against -0.4, right.
PIQA_ENGINE = {
  ' boil it.': (-3.0, 2),
  ' air it.': (-2.0, 2),
  ' turn the lid.': (-5.0, 4),
  ' sing.': (-2.0, 2),
}

ARC = [
  {
    'id': 'made_1',
    'question': 'Which of these melts in the sun?',
    'choices': {
      'text': ['stone', 'ice', 'iron', 'wood'],
      'label': ['A', 'B', 'C', 'D'],
    },
    'answerKey': 'B',
  },
  {
    'id': 'made_2',
    'question': 'What do bees make?',
    'choices': {'text': ['honey', 'bread', 'milk'], 'label': ['1', '2', '3']},
    'answerKey': '1',
  },
]
MELTS = 'Question: Which of these melts in the sun?\nAnswer:'
BEES = 'Question: What do bees make?\nAnswer:'
MELT_OPTIONS = (' stone', ' ice', ' iron', ' wood')
BEE_OPTIONS = (' honey', ' bread', ' milk')
ARC_ITEMS = [same(MELTS, MELT_OPTIONS, 1), same(BEES, BEE_OPTIONS, 0)]
# Per character: ice -0.67 loses to stone -0.5, honey -0.4 wins over -0.6 and
# -0.75. Per token: ice -2.0 wins over -2.5.
ARC_ENGINE = {
  ' stone': (-2.5, 1),
  ' ice': (-2.0, 1),
  ' iron': (-5.0, 1),
  ' wood': (-6.0, 1),
  ' honey': (-2.0, 2),
  ' bread': (-3.0, 1),
  ' milk': (-3.0, 1),
}
# Without the question: ice gains 1.0 by it, stone nothing; honey gains 0.5,
# milk 1.0.
ARC_PRIOR = ARC_ENGINE | {
  ('Answer:', ' stone'): (-2.5, 1),
  ('Answer:', ' ice'): (-3.0, 1),
  ('Answer:', ' iron'): (-5.0, 1),
  ('Answer:', ' wood'): (-5.0, 1),
  ('Answer:', ' honey'): (-2.5, 2),
  ('Answer:', ' bread'): (-3.0, 1),
  ('Answer:', ' milk'): (-4.0, 1),
}
ARC_PRIOR_ITEMS = [
  same(MELTS, MELT_OPTIONS, 1, unconditional='Answer:'),
  same(BEES, BEE_OPTIONS, 0, unconditional='Answer:'),
]

OPENBOOKQA = [
  {
    'id': 'made-3',
    'question_stem': 'A candle gives',
    'choices': {
      'text': ['light', 'rain', 'sound', 'wind'],
      'label': ['A', 'B', 'C', 'D'],
    },
    'answerKey': 'A',
  }
]
CANDLE = (' light', ' rain', ' sound', ' wind')
# Sums: rain. Per character: light -0.4, rain -0.475. Per token: light -1.0.
CANDLE_ENGINE = {
  ' light': (-2.0, 2),
  ' rain': (-1.9, 1),
  ' sound': (-3.0, 1),
  ' wind': (-3.0, 1),
  ('Answer:', ' light'): (-3.0, 2),
  ('Answer:', ' rain'): (-2.0, 1),
  ('Answer:', ' sound'): (-3.5, 1),
  ('Answer:', ' wind'): (-3.0, 1),
}

COMMONSENSE_QA = [
  {
    'id': 'made4',
    'question': ' Where does one keep milk? ',
    'question_concept': 'milk',
    'choices': {
      'label': ['A', 'B', 'C', 'D', 'E'],
      'text': ['oven', 'shoe', 'fridge', 'attic', 'garden'],
    },
    'answerKey': 'C',
  }
]
FRIDGE = (' oven', ' shoe', ' fridge', ' attic', ' garden')

SIQA = [
  {
    'context': 'Kim lent Lee an umbrella.',
    'question': 'How would Lee feel?',
    'answerA': 'angry',
    'answerB': 'thankful',
    'answerC': 'hungry',
    'label': '2',
  }
]
FEELINGS = (' angry', ' thankful', ' hungry')

WINOGRANDE = [
  {
    'sentence': 'The cup did not fit in the box because the _ was too big.',
    'option1': 'cup',
    'option2': 'box',
    'answer': '1',
  },
  {
    'sentence': '_ thanked Ben for the help Ann had from him.',
    'option1': 'Ann',
    'option2': 'Ben',
    'answer': '1',
  },
]
FIT = 'The cup did not fit in the box because the '
BIG = ' was too big.'
THANKED = ' thanked Ben for the help Ann had from him.'
WINOGRANDE_ITEMS = [
  Choice((f'{FIT}cup', f'{FIT}box'), (BIG, BIG), 0, ('was too big.',) * 2),
  Choice(('Ann', 'Ben'), (THANKED, THANKED), 0, (THANKED.strip(),) * 2),
]
WINOGRANDE_ENGINE = {
  (f'{FIT}cup', BIG): (-3.0, 4),
  (f'{FIT}box', BIG): (-4.0, 4),
  ('Ann', THANKED): (-9.0, 10),
  ('Ben', THANKED): (-8.0, 10),
}

CASES = [
  Case(
    'lm_eval', 'hellaswag', HELLASWAG, HELLASWAG_ITEMS, HELLASWAG_ENGINE, 0.5
  ),
  Case(
    'deepseekmoe',
    'hellaswag',
    HELLASWAG,
    HELLASWAG_ITEMS,
    HELLASWAG_ENGINE,
    1.0,
  ),
  Case(
    'libmoe',
    'hellaswag',
    HELLASWAG,
    [
      HELLASWAG_ITEMS[0],
      same(
        'Home and Garden: [header] How to dig. Find a spade. [step] '
        'Look around.',
        (
          ' Fly away. [substeps] Now.',
          ' Sleep.',
          ' Ask a friend.',
          ' Eat. Stop.',
        ),
        2,
      ),
    ],
    HELLASWAG_ENGINE,
    1.0,
  ),
  Case(
    'lm_eval',
    'piqa',
    PIQA,
    [
      same(
        'Question: To dry a wet book,\nAnswer:', (' boil it.', ' air it.'), 1
      ),
      same('Question: Open a jar\nAnswer:', (' turn the lid.', ' sing.'), 0),
    ],
    PIQA_ENGINE,
    1.0,
  ),
  Case(
    'deepseekmoe',
    'piqa',
    PIQA,
    [
      same('To dry a wet book,', (' boil it.', ' air it.'), 1),
      same('Open a jar', (' turn the lid.', ' sing.'), 0),
    ],
    PIQA_ENGINE,
    0.5,
  ),
  Case(
    'libmoe',
    'piqa',
    PIQA,
    [
      same(
        'Question: To dry a wet book,\nAnswer:', (' boil it.', ' air it.'), 1
      ),
      same('Question: Open a jar\nAnswer:', (' turn the lid.', ' sing.'), 0),
    ],
    PIQA_ENGINE,
    0.5,
  ),
  Case('lm_eval', 'arc_easy', ARC, ARC_ITEMS, ARC_ENGINE, 0.5),
  Case('lm_eval', 'arc_challenge', ARC, ARC_ITEMS, ARC_ENGINE, 0.5),
  Case('deepseekmoe', 'arc_easy', ARC, ARC_PRIOR_ITEMS, ARC_PRIOR, 0.5),
  Case('deepseekmoe', 'arc_challenge', ARC, ARC_PRIOR_ITEMS, ARC_PRIOR, 0.5),
  # The row of three options is left out.
  Case('libmoe', 'arc_easy', ARC, [ARC_ITEMS[0], None], ARC_ENGINE, 1.0),
  Case('libmoe', 'arc_challenge', ARC, [ARC_ITEMS[0], None], ARC_ENGINE, 1.0),
  Case(
    'lm_eval',
    'openbookqa',
    OPENBOOKQA,
    [same('A candle gives', CANDLE, 0)],
    CANDLE_ENGINE,
    1.0,
  ),
  Case(
    'deepseekmoe',
    'openbookqa',
    OPENBOOKQA,
    [same('A candle gives', CANDLE, 0, unconditional='Answer:')],
    CANDLE_ENGINE,
    1.0,  # light gains 1.0, sound 0.5, rain 0.1, wind nothing
  ),
  Case(
    'libmoe',
    'openbookqa',
    OPENBOOKQA,
    [same('Question: A candle gives\nAnswer:', CANDLE, 0)],
    CANDLE_ENGINE,
    1.0,
  ),
  Case(
    'lm_eval',
    'commonsense_qa',
    COMMONSENSE_QA,
    [
      same(
        'Question: Where does one keep milk?\nA. oven\nB. shoe\nC. fridge\n'
        'D. attic\nE. garden\nAnswer:',
        (' A', ' B', ' C', ' D', ' E'),
        2,
      )
    ],
    dict(zip((' A', ' B', ' C', ' D', ' E'), [(-2.0, 1)] * 5, strict=True)),
    0.0,  # of equals the first is the answer
  ),
  Case(
    'libmoe',
    'commonsense_qa',
    COMMONSENSE_QA,
    [same('Question:  Where does one keep milk? \nAnswer:', FRIDGE, 2)],
    {option: (-2.0, 1) for option in FRIDGE} | {' fridge': (-3.0, 2)},
    1.0,
  ),
  Case(
    'lm_eval',
    'social_iqa',
    SIQA,
    [same('Q: Kim lent Lee an umbrella. How would Lee feel?\nA:', FEELINGS, 1)],
    {' angry': (-2.0, 1), ' thankful': (-3.0, 2), ' hungry': (-4.0, 1)},
    0.0,
  ),
  Case(
    'libmoe',
    'social_iqa',
    SIQA,
    [
      same(
        'Context: Kim lent Lee an umbrella.\nQuestion: How would Lee feel?\n'
        'Answer:',
        FEELINGS,
        1,
      )
    ],
    {' angry': (-2.0, 1), ' thankful': (-3.0, 2), ' hungry': (-4.0, 1)},
    1.0,
  ),
  Case(
    'lm_eval',
    'winogrande',
    WINOGRANDE,
    WINOGRANDE_ITEMS,
    WINOGRANDE_ENGINE,
    0.5,
  ),
  Case(
    'deepseekmoe',
    'winogrande',
    WINOGRANDE,
    WINOGRANDE_ITEMS,
    WINOGRANDE_ENGINE,
    0.5,
  ),
  Case(
    'libmoe',
    'winogrande',
    WINOGRANDE,
    [
      same(f'Question: {FIT}_{BIG}\nAnswer:', (' cup', ' box'), 0),
      same(f'Question: _{THANKED}\nAnswer:', (' Ann', ' Ben'), 0),
    ],
    {' cup': (-1.0, 1), ' box': (-2.0, 1), ' Ann': (-1, 1), ' Ben': (-1, 1)},
    0.5,  # the tie is wrong
  ),
  # Solved rows: the question, the right option, an empty line.
  Case(
    'lm_eval',
    'winogrande',
    WINOGRANDE[:1],
    [
      Choice(
        (
          f'Ann{THANKED}\n\n{FIT}cup',
          f'Ann{THANKED}\n\n{FIT}box',
        ),
        (BIG, BIG),
        0,
        ('was too big.',) * 2,
      )
    ],
    {
      (f'Ann{THANKED}\n\n{FIT}cup', BIG): (-3.0, 4),
      (f'Ann{THANKED}\n\n{FIT}box', BIG): (-4.0, 4),
    },
    1.0,
    solved=WINOGRANDE[1:],
  ),
  Case(
    'lm_eval',
    'arc_easy',
    ARC[:1],
    [
      same(
        'Question: What do bees make?\nAnswer: honey\n\n' + MELTS,
        MELT_OPTIONS,
        1,
      )
    ],
    ARC_ENGINE,
    0.0,
    solved=ARC[1:],
  ),
]


@pytest.mark.parametrize('case', CASES, ids=str)
def test_items_and_score(case):
  check(case)


@pytest.mark.parametrize(
  ('name', 'row', 'message'),
  [
    ('hellaswag', HELLASWAG[0] | {'label': ''}, "'label' is ''"),
    ('hellaswag', HELLASWAG[0] | {'label': '01'}, "'label' is '01'"),
    ('winogrande', WINOGRANDE[0] | {'answer': ''}, "'answer' is ''"),
    ('winogrande', WINOGRANDE[0] | {'sentence': 'No.'}, 'has no blank'),
    ('arc_easy', ARC[0] | {'answerKey': 'E'}, 'none of .A., .B., .C., .D.'),
    ('social_iqa', SIQA[0] | {'label': '4'}, "'label' is '4'"),
    ('piqa', PIQA[0] | {'label': 2}, 'the answer is option 2 of 2'),
    ('piqa', PIQA[0] | {'sol2': ''}, 'option 1 is empty'),
  ],
)
def test_a_bad_row_has_one_clear_line(name, row, message):
  with pytest.raises(InputError, match=message) as error:
    BENCHMARKS[name].item(row)
  assert '\n' not in str(error.value)


def test_a_row_that_is_left_out_cannot_be_shown():
  with pytest.raises(InputError, match='left out'):
    SUITES['libmoe']['arc_easy'].show(ARC[1])
