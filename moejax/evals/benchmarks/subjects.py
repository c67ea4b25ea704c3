"""MMLU: examinations in 57 subjects, with four options (arXiv 2009.03300)."""

from moejax.evals.benchmark import Choice, Dataset, Row
from moejax.evals.benchmarks.forms import choice, lettered, multiple_choice

ROWS = Dataset(
  'cais/mmlu',
  'all',
  'test',
  {'question': str, 'subject': str, 'choices': list, 'answer': int},
  shots_split='dev',
)


def mmlu(row: Row) -> Choice:
  """The question with lettered options, then a letter."""
  return lettered(
    row['question'].strip(),
    row['choices'],
    'Answer:',
    row['answer'],
    row['subject'],
  )


def header(row: Row) -> str:
  """The sentence that names the subject, before all solved rows."""
  subject = row['subject'].replace('_', ' ')
  return (
    'The following are multiple choice questions (with answers) about '
    f'{subject}.\n\n'
  )


def listed(row: Row) -> Choice:
  """The options as a Python list in the question, then an option as text."""
  return choice(
    f'Question: {row["question"]}\nOptions: {list(row["choices"])}\nAnswer:',
    row['choices'],
    row['answer'],
    row['subject'],
    delimiter='',
  )


MMLU = multiple_choice(
  ROWS, mmlu, header=header, first=True, shots_by_group=True
)

DEEPSEEKMOE = {
  'mmlu': multiple_choice(
    ROWS,
    mmlu,
    'acc_token',
    shots=5,
    group_mean=True,
    header=header,
    first=True,
    shots_by_group=True,
  )
}

LIBMOE = {
  'mmlu': multiple_choice(ROWS, listed, 'acc_token_strict', group_mean=True)
}
