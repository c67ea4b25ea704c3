"""CLUEWSC by generation: prompts and scores by hand."""

import pytest
from helpers.generated_cases import GeneratedCase, check


def row(text, pronoun, phrase, label):
  return {
    'text': text,
    'target': {
      'span1_text': phrase,
      'span1_index': 0,
      'span2_text': pronoun,
      'span2_index': 3,
    },
    'label': label,
    'idx': 1,
  }


ROWS = [
  row('小猫饿了，它在叫。', '它', '小猫', 'true'),
  row('小狗看见鱼，它很高兴。', '它', '鱼', 'false'),
  row('妈妈找到孩子们，他们笑了。', '他们', '孩子们', 'true'),
]
SOLVED = [
  row(f'第{i}句，它在。', '它', f'句{i}', 'true' if i else 'false')
  for i in range(7)
]
SHOWN = ''.join(
  f'第{i}句，它在。\n上面的句子中的"它"指的是\n句{i}\n\n' for i in range(1, 6)
)
TEXTS = [
  '小猫饿了，它在叫。\n上面的句子中的"它"指的是\n',
  '妈妈找到孩子们，他们笑了。\n上面的句子中的"他们"指的是\n',
]
OUTPUTS = ['小猫\n\n', '妈妈']

CASES = [
  GeneratedCase(
    'lm_eval', 'cluewsc', ROWS, TEXTS, OUTPUTS, {'exact_match': 0.5}
  ),
  GeneratedCase(
    'deepseekmoe',
    'cluewsc',
    ROWS,
    [SHOWN + text for text in TEXTS],
    OUTPUTS,
    {'exact_match': 0.5},
    SOLVED,
  ),
]


@pytest.mark.parametrize('case', CASES, ids=str)
def test_prompts_and_score_are_those_worked_by_hand(case, tmp_path):
  check(tmp_path, case)
