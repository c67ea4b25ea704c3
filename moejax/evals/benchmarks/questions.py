"""Open questions without a text: TriviaQA and NaturalQuestions.

TriviaQA (arXiv 1705.03551) without its documents, and the open questions of
NaturalQuestions (arXiv 1906.00300). Answers match exactly, after normalisation,
or are wrong.
"""

import re
from typing import Any

from moejax.evals import judges
from moejax.evals.benchmark import Dataset, Prompt, Row
from moejax.evals.benchmarks.free_form import generated

TRIVIA_ROWS = Dataset(
  'mandarjoshi/trivia_qa',
  'rc.nocontext',
  'validation',
  {'question': str, 'answer': dict},
  shots_split='train',
  tfds='trivia_qa/rc.nocontext',
)
NATURAL_ROWS = Dataset(
  'google-research-datasets/nq_open',
  '',
  'validation',
  {'question': str, 'answer': list},
  shots_split='train',
  tfds='natural_questions_open',
)
STOPS = ('\n', '.', ',')
# The harness removes these anywhere at the beginning of a word, and a capital
# article no less than a small one.
ARTICLE = re.compile(r'\b(?:The |the |An |A |The |a |an )')


def without_articles(text: str) -> str:
  """The harness's normalisation of NaturalQuestions."""
  return judges.plain(ARTICLE.sub('', text.strip()))


def trivia(row: Row) -> Prompt:
  """The harness's form, which doubles the question mark of a question."""
  return Prompt(
    f'Question: {row["question"]}?\nAnswer:',
    judges.exact_match(row['answer']['aliases'], judges.plain),
    STOPS,
  )


def natural(row: Row) -> Prompt:
  """The harness's form."""
  return Prompt(
    f'Q: {row["question"]}?\nA:',
    judges.exact_match(row['answer'], without_articles),
    STOPS,
  )


def first_alias(row: Row) -> str:
  """The first alias of TriviaQA's answer, as it follows the prompt."""
  answer = row['answer']
  return ' ' + (answer['aliases'] or [answer['value']])[0]


def first_answer(row: Row) -> str:
  """The first answer of NaturalQuestions, as it follows the prompt."""
  return ' ' + row['answer'][0]


def listed_trivia(row: Row) -> Prompt:
  """A line of a list of questions."""
  answer = row['answer']
  references = [answer['value'], *answer['aliases']]
  return Prompt(
    f'Q: {row["question"]}\nA:',
    judges.exact_match(references, judges.squad),
    ('\n',),
  )


def listed_natural(row: Row) -> Prompt:
  """A line of a list: the question gets a capital and a question mark."""
  question = row['question']
  return Prompt(
    f'Q: {question[:1].upper()}{question[1:]}?\nA:',
    judges.exact_match(row['answer'], judges.squad),
    ('\n',),
  )


TRIVIAQA = generated(TRIVIA_ROWS, trivia, first_alias)
NQ_OPEN = generated(
  NATURAL_ROWS,
  natural,
  first_answer,
  between='\n',
  header=lambda _: 'Answer these questions:\n\n',
)

LIST: dict[str, Any] = {
  'shots': 5,
  'first': True,
  'between': '\n',
  'header': lambda _: 'Answer these questions:\n',
  'note': (
    'the solved rows are the first ones of the training split, and answers '
    "are normalised as in SQuAD's evaluation: the papers say neither"
  ),
}
DEEPSEEKMOE = {
  'naturalquestions': generated(
    NATURAL_ROWS, listed_natural, first_answer, **LIST
  ),
  'triviaqa': generated(TRIVIA_ROWS, listed_trivia, first_alias, **LIST),
}
