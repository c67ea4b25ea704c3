"""Chinese: the examinations C-Eval and CMMLU, and the idioms of CHID.

C-Eval (arXiv 2305.08322) is scored on its validation split, because the answers
of its test split are not published. CHID is that of FewCLUE (arXiv 2107.07498):
seven idioms for a blank.
"""

from typing import Any

from moejax.core.errors import InputError
from moejax.evals.benchmark import Choice, Dataset, Row
from moejax.evals.benchmarks.chinese_subjects import CEVAL_NAMES, CMMLU_NAMES
from moejax.evals.benchmarks.forms import (
  choice,
  lettered,
  multiple_choice,
  position,
)

CEVAL_ROWS = Dataset(
  'ceval/ceval-exam',
  '',
  'val',
  {'question': str, 'A': str, 'B': str, 'C': str, 'D': str, 'answer': str},
  shots_split='dev',
  configs=tuple(sorted(CEVAL_NAMES)),
)
CMMLU_ROWS = Dataset(
  'haonan-li/cmmlu',
  '',
  'test',
  {'Question': str, 'A': str, 'B': str, 'C': str, 'D': str, 'Answer': str},
  shots_split='dev',
  configs=tuple(sorted(CMMLU_NAMES)),
)
CHID_ROWS = Dataset(
  '', '', 'test_public', {'content': str, 'candidates': list, 'answer': int}
)
ANSWER = '答案：'
ANSWER_IS = '答案是：'
QUESTION = '题目：'
IDIOM = '#idiom#'


def subject(row: Row, names: dict[str, str]) -> str:
  """The Chinese name of a row's subject, which is its configuration.

  Raises:
    InputError: the subject is unknown.
  """
  name = row.get('config', '')
  if name not in names:
    raise InputError(
      f"the column 'config' is {name!r}, which is no subject: name the "
      'folder or file of the rows after one, such as '
      f'{next(iter(names))!r}'
    )
  return names[name]


def examined(
  row: Row, question: str, answer: str, title: str = '', words: str = ANSWER
) -> Choice:
  """A question with lettered options, then a letter.

  Args:
    row: with the columns A, B, C and D.
    question: column of the question.
    answer: column of the right letter.
    title: stands before the question.
    words: stand before the letter.
  """
  return lettered(
    title + row[question].strip(),
    [row[letter] for letter in 'ABCD'],
    words,
    position(row[answer], 'ABCD', answer),
    row.get('config', ''),
  )


def ceval(row: Row) -> Choice:
  """The question with lettered options, then a letter."""
  return examined(row, 'question', 'answer')


def ceval_header(row: Row) -> str:
  """The harness's sentence that names the subject."""
  return (
    f'以下是中国关于{subject(row, CEVAL_NAMES)}的单项选择题，'
    '请选出其中的正确答案。\n\n'
  )


def ceval_exam_header(row: Row) -> str:
  """DeepSeek's sentence, which is that of C-Eval's authors."""
  return (
    f'以下是中国关于{subject(row, CEVAL_NAMES)}考试的单项选择题，'
    '请选出其中的正确答案。\n\n'
  )


def cmmlu(row: Row) -> Choice:
  """The question with lettered options, then a letter."""
  return examined(row, 'Question', 'Answer')


def titled_cmmlu(row: Row) -> Choice:
  """As `cmmlu`, with the words `question` and `answer is` in Chinese."""
  return examined(row, 'Question', 'Answer', QUESTION, ANSWER_IS)


def cmmlu_header(row: Row) -> str:
  """The sentence that names the subject."""
  return (
    f'以下是关于{subject(row, CMMLU_NAMES)}的单项选择题，'
    '请直接给出正确答案的选项。\n\n'
  )


def chid(row: Row) -> Choice:
  """The passage up to the idiom; then each idiom with the passage's rest."""
  before, mark, after = row['content'].partition(IDIOM)
  if not mark:
    raise InputError(
      f"the column 'content' has no blank {IDIOM!r}: {row['content'][:40]!r}"
    )
  texts = [idiom + after for idiom in row['candidates']]
  return choice(before, texts, row['answer'], delimiter='')


FEWCLUE = (
  'rows of FewCLUE (github.com/CLUEbenchmark/FewCLUE): chid/test_public.json, '
  'which has a row a line, as test_public.jsonl'
)
SUBJECTS: dict[str, Any] = {'first': True, 'shots_by_group': True}
CEVAL = multiple_choice(CEVAL_ROWS, ceval, header=ceval_header, **SUBJECTS)
CMMLU = multiple_choice(CMMLU_ROWS, cmmlu, header=cmmlu_header, **SUBJECTS)
CHID = multiple_choice(
  CHID_ROWS,
  chid,
  'acc_token',
  note=f"{FEWCLUE}; not in EleutherAI's harness, the form of DeepSeek-V2",
)

DEEPSEEKMOE = {
  'ceval': multiple_choice(
    CEVAL_ROWS,
    ceval,
    'acc_token',
    shots=5,
    group_mean=True,
    header=ceval_exam_header,
    **SUBJECTS,
  ),
  'chid': multiple_choice(CHID_ROWS, chid, 'acc_token', note=FEWCLUE),
  'cmmlu': multiple_choice(
    CMMLU_ROWS,
    titled_cmmlu,
    'acc_token',
    shots=5,
    group_mean=True,
    header=cmmlu_header,
    **SUBJECTS,
  ),
}
