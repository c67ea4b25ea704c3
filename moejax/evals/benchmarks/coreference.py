"""CLUEWSC (arXiv 2004.05986): what a pronoun of a Chinese sentence refers to.

A row of FewCLUE asks whether a pronoun refers to a phrase. The right phrase is
known where it does, so only those rows are asked for it.
"""

from collections.abc import Sequence
from typing import Any

from moejax.evals import judges
from moejax.evals.benchmark import Dataset, Prompt, Row
from moejax.evals.benchmarks.free_form import generated

ROWS = Dataset(
  '',
  '',
  'test_public',
  {'text': str, 'target': dict, 'label': str},
  shots_split='train_few_all',
)


def refers(row: Row) -> bool:
  """Whether the pronoun refers to the row's phrase."""
  return row['label'] == 'true'


def antecedent(row: Row) -> Prompt | None:
  """The sentence, and a line that asks for the phrase."""
  if not refers(row):
    return None
  target = row['target']
  return Prompt(
    f'{row["text"]}\n上面的句子中的"{target["span2_text"]}"指的是\n',
    judges.exact_match([target['span1_text']]),
    ('\n',),
    max_tokens=64,
  )


def phrase(row: Row) -> str:
  """The phrase that the pronoun refers to."""
  return row['target']['span1_text']


def first_five(rows: Sequence[Row]) -> list[Row]:
  """The first five rows whose phrase is right."""
  return [row for row in rows if refers(row)][:5]


FORM: dict[str, Any] = {
  'note': (
    'rows of FewCLUE (github.com/CLUEbenchmark/FewCLUE): cluewsc/'
    'test_public.json and train_few_all.json, which have a row a line, as '
    '.jsonl; rows whose phrase is wrong are left out, because their right '
    "one is not published; not in EleutherAI's harness"
  ),
}
CLUEWSC = generated(ROWS, antecedent, phrase, **FORM)

DEEPSEEKMOE = {
  'cluewsc': generated(
    ROWS, antecedent, phrase, shots=5, fixed=first_five, **FORM
  ),
}
