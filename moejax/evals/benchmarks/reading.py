"""Reading: RACE in three forms, and BoolQ.

RACE is published by question (`ehovy/race`) and by article
(`EleutherAI/race`). The papers score each question; EleutherAI's harness asks
the last question of an article, after the others with their answers.
"""

import ast
import dataclasses
from collections import defaultdict
from collections.abc import Sequence

from moejax.core.errors import InputError
from moejax.evals.benchmark import Choice, Dataset, Row
from moejax.evals.benchmarks.forms import choice, multiple_choice, position

QUESTION_ROWS = Dataset(
  'ehovy/race',
  'high',
  'test',
  {'article': str, 'question': str, 'options': list, 'answer': str},
  shots_split='train',
)
MIDDLE_ROWS = dataclasses.replace(QUESTION_ROWS, config='middle')
BOTH_ROWS = dataclasses.replace(
  QUESTION_ROWS, config='', configs=('high', 'middle')
)
ARTICLE_ROWS = Dataset(
  'EleutherAI/race', 'high', 'test', {'article': str, 'problems': (str, list)}
)
BOOLQ_ROWS = Dataset(
  'aps/super_glue',
  'boolq',
  'validation',
  {'question': str, 'passage': str, 'label': int},
  shots_split='train',
  tfds='super_glue/boolq',
)
SOLVED = 'solved'
MOST_SOLVED = 5


def right_option(row: Row) -> int:
  """The index of the right option of a question of RACE."""
  return position(row['answer'], 'ABCD', 'answer')


def race(row: Row) -> Choice:
  """The article, one question about it, then its options as text."""
  return choice(
    f'Article: {row["article"]}\nQuestion: {row["question"]}\nAnswer:',
    row['options'],
    right_option(row),
    row.get('config', ''),
  )


def add_solved(rows: Sequence[Row]) -> list[Row]:
  """Adds to each row the other questions about its article, with answers.

  Returns:
    The rows, each with a column 'solved': up to five (question, answer) in
    the order of the rows.
  """
  articles = defaultdict(list)
  for index, row in enumerate(rows):
    answer = row['options'][right_option(row)]
    articles[row['article']].append((index, row['question'], answer))
  return [
    {
      **row,
      SOLVED: [
        (question, answer)
        for other, question, answer in articles[row['article']]
        if other != index
      ][:MOST_SOLVED],
    }
    for index, row in enumerate(rows)
  ]


def race_after_others(row: Row) -> Choice:
  """The article, its other questions with answers, then the question."""
  solved = ''.join(
    f'Q: {question}\n\nA: {answer}\n\n'
    for question, answer in row.get(SOLVED, ())
  )
  return choice(
    f'Article:\n{row["article"]}\n\n{solved}Q: {row["question"]}\n\nA:',
    row['options'],
    right_option(row),
  )


def problems(row: Row) -> list[dict]:
  """The questions of an article, which are published as Python text.

  Raises:
    InputError: the text is no list of questions.
  """
  listed = row['problems']
  if isinstance(listed, str):
    try:
      listed = ast.literal_eval(listed)
    except (ValueError, SyntaxError) as error:
      raise InputError(
        f"the column 'problems' is no Python list: {listed[:40]!r}"
      ) from error
  if not listed:
    raise InputError("the column 'problems' is empty: the article has no row")
  return listed


def race_article(row: Row) -> Choice:
  """The harness's form: the article's last question after the others.

  A question that ends in a blank is shown as its sentence, completed; the last
  question stands alone, without a cue.
  """
  *others, last = problems(row)
  context = f'Article: {row["article"]}\n\n'
  for problem in others:
    answer = problem['options'][right_option(problem)]
    if problem['question'].endswith('  _  .'):
      context += f'{problem["question"][:-5]}{answer}\n'
    else:
      context += f'Question: {problem["question"]}\nAnswer: {answer}\n'
  return choice(context + last['question'], last['options'], right_option(last))


def boolq(row: Row) -> Choice:
  """The passage, a question about it, then no or yes."""
  return choice(
    f'{row["passage"]}\nQuestion: {row["question"]}?\nAnswer:',
    ('no', 'yes'),
    row['label'],
  )


PER_QUESTION = "one item a question; the harness's form is `race`"
RACE = multiple_choice(
  ARTICLE_ROWS,
  race_article,
  note='one item an article, of high school alone',
)
RACE_HIGH = multiple_choice(QUESTION_ROWS, race, note=PER_QUESTION)
RACE_MIDDLE = multiple_choice(MIDDLE_ROWS, race, note=PER_QUESTION)
BOOLQ = multiple_choice(BOOLQ_ROWS, boolq)

FIVE = 'after up to five other questions about the article (5 shots)'
DEEPSEEKMOE = {
  'race_high': multiple_choice(
    QUESTION_ROWS,
    race_after_others,
    'acc_token',
    arrange=add_solved,
    note=FIVE,
  ),
  'race_middle': multiple_choice(
    MIDDLE_ROWS, race_after_others, 'acc_token', arrange=add_solved, note=FIVE
  ),
}

LIBMOE = {
  'race': multiple_choice(
    BOTH_ROWS,
    race,
    'acc_token_strict',
    group_mean=True,
    note='the mean of high and middle school',
  )
}
