"""C-Eval, CMMLU and CHID: items and scores by hand."""

import pytest
from helpers.benchmark_cases import Case, check

from moejax.core.errors import InputError
from moejax.evals.benchmark import Choice
from moejax.evals.benchmarks import BENCHMARKS, SUITES
from moejax.evals.benchmarks.chinese_subjects import CEVAL_NAMES, CMMLU_NAMES

LETTERS = (' A', ' B', ' C', ' D')
ENGINE = {' A': (-1, 1), ' B': (-2, 1), ' C': (-2, 1), ' D': (-2, 1)}


def item(context, answer, group):
  return Choice((context,) * 4, LETTERS, answer, ('A', 'B', 'C', 'D'), group)


OPTIONS = {'A': '水', 'B': '火', 'C': '木', 'D': '土'}
LINES = 'A. 水\nB. 火\nC. 木\nD. 土\n'
CEVAL = [
  {
    'id': 0,
    'question': '鱼住在____里。 ',
    **OPTIONS,
    'answer': 'A',
    'explanation': '',
    'config': 'education_science',
  }
]
CEVAL_DEV = CEVAL[0] | {'question': '纸由____做成。', 'answer': 'C'}
CMMLU = [
  {'Question': '什么会燃烧？', **OPTIONS, 'Answer': 'B', 'config': 'anatomy'},
  {'Question': '什么会流动？', **OPTIONS, 'Answer': 'A', 'config': 'anatomy'},
  {'Question': '什么会下雨？', **OPTIONS, 'Answer': 'A', 'config': 'arts'},
]
CMMLU_DEV = CMMLU[0] | {'Question': '树是什么？', 'Answer': 'C'}
TITLE = '以下是关于{}的单项选择题，请直接给出正确答案的选项。\n\n'
CHID = [
  {
    'id': 1,
    'content': '他跑了一天，已经#idiom#，想睡觉。',
    'candidates': [
      '精疲力竭', '一石二鸟', '画蛇添足', '对牛弹琴', '守株待兔', '掩耳盗铃',
      '井底之蛙'
    ],
    'answer': 0,
  }
]  # fmt: skip
CHID_TEXTS = tuple(f'{idiom}，想睡觉。' for idiom in CHID[0]['candidates'])
CHID_ITEMS = [Choice(('他跑了一天，已经',) * 7, CHID_TEXTS, 0, CHID_TEXTS)]
# The right idiom has more tokens: by the sum it loses, by the mean it wins.
CHID_ENGINE = {text: (-9.0, 6) for text in CHID_TEXTS} | {
  CHID_TEXTS[0]: (-10.0, 8)
}

CASES = [
  Case(
    'lm_eval',
    'ceval',
    CEVAL,
    [
      item(
        '以下是中国关于教育学的单项选择题，请选出其中的正确答案。\n\n'
        f'鱼住在____里。\n{LINES}答案：',
        0,
        'education_science',
      )
    ],
    ENGINE,
    1.0,
  ),
  Case(
    'deepseekmoe',
    'ceval',
    CEVAL,
    [
      item(
        '以下是中国关于教育学考试的单项选择题，请选出其中的正确答案。\n\n'
        f'纸由____做成。\n{LINES}答案： C\n\n'
        f'鱼住在____里。\n{LINES}答案：',
        0,
        'education_science',
      )
    ],
    ENGINE,
    1.0,
    solved=[CEVAL_DEV],
  ),
  Case(
    'lm_eval',
    'cmmlu',
    CMMLU,
    [
      item(
        f'{TITLE.format("解剖学")}什么会燃烧？\n{LINES}答案：', 1, 'anatomy'
      ),
      item(
        f'{TITLE.format("解剖学")}什么会流动？\n{LINES}答案：', 0, 'anatomy'
      ),
      item(f'{TITLE.format("艺术学")}什么会下雨？\n{LINES}答案：', 0, 'arts'),
    ],
    ENGINE,
    2 / 3,
  ),
  Case(
    'deepseekmoe',
    'cmmlu',
    CMMLU,
    [
      item(
        f'{TITLE.format(subject)}题目：树是什么？\n{LINES}答案是： C\n\n'
        f'题目：{question}\n{LINES}答案是：',
        answer,
        group,
      )
      for subject, question, answer, group in [
        ('解剖学', '什么会燃烧？', 1, 'anatomy'),
        ('解剖学', '什么会流动？', 0, 'anatomy'),
        ('艺术学', '什么会下雨？', 0, 'arts'),
      ]
    ],
    ENGINE,
    0.75,  # half of one subject and all of the other
    solved=[CMMLU_DEV],
  ),
  Case('lm_eval', 'chid', CHID, CHID_ITEMS, CHID_ENGINE, 1.0),
  Case('deepseekmoe', 'chid', CHID, CHID_ITEMS, CHID_ENGINE, 1.0),
]


@pytest.mark.parametrize('case', CASES, ids=str)
def test_items_and_score(case):
  check(case)


def test_deepseek_averages_subjects():
  assert SUITES['deepseekmoe']['ceval'].group_mean
  assert not BENCHMARKS['ceval'].group_mean


def test_the_subjects_are_52_and_67():
  assert (len(CEVAL_NAMES), len(CMMLU_NAMES)) == (52, 67)
  assert BENCHMARKS['ceval'].dataset.configs == tuple(sorted(CEVAL_NAMES))
  assert BENCHMARKS['cmmlu'].dataset.configs == tuple(sorted(CMMLU_NAMES))


@pytest.mark.parametrize('name', ['ceval', 'cmmlu'])
def test_an_unknown_subject_has_one_clear_line(name):
  with pytest.raises(InputError, match="'config' is 'magic'") as error:
    BENCHMARKS[name].header({'config': 'magic'})
  assert '\n' not in str(error.value)


def test_a_passage_without_blank_has_one_clear_line():
  with pytest.raises(InputError, match="no blank '#idiom#'"):
    BENCHMARKS['chid'].item(CHID[0] | {'content': '他睡觉。'})
