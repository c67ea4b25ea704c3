"""Words to be filled in: LAMBADA and the Children's Book Test.

LAMBADA (arXiv 1606.06031) asks the last word of a passage. The Children's Book
Test (arXiv 1511.02301) asks a word of the sentence after twenty sentences, out
of ten: common nouns (CN), named entities (NE), prepositions (P) or verbs (V).
"""

from moejax.core.errors import InputError
from moejax.evals.benchmark import Benchmark, Choice, Cloze, Dataset, Row
from moejax.evals.benchmarks.forms import choice, multiple_choice, position

LAMBADA_ROWS = Dataset(
  'EleutherAI/lambada_openai', 'default', 'test', {'text': str}
)
CBT_ROWS = Dataset(
  'cam-cst/cbt',
  '',
  'test',
  {'sentences': list, 'question': str, 'answer': str, 'options': list},
  configs=('CN', 'NE', 'P', 'V'),
)
BLANK = 'XXXXX'

# The books are published as tokens. What turns them into text, in this order.
JOINS = {
  " '": "'",
  " n't": "n't",
  '`` ': '"',
  "''": '"',
  ' :': ':',
  ' ;': ';',
  ' !': '!',
  ' ?': '?',
  ' ,': ',',
  ' .': '.',
}


def lambada(row: Row) -> Cloze:
  """The passage without its last word, and that word."""
  context, space, word = row['text'].rpartition(' ')
  if not (space and word):
    raise InputError(
      f"the column 'text' does not end in a space and a word: "
      f'{row["text"][-40:]!r}'
    )
  return Cloze(context, f' {word}')


def join_tokens(text: str) -> str:
  """Text whose punctuation no longer stands apart."""
  for apart, joined in JOINS.items():
    text = text.replace(apart, joined)
  return text


def cbt(row: Row) -> Choice:
  """Twenty sentences and the next up to its blank; then filling and the rest.

  The rest of the sentence is scored too, so that a filling has to fit it.
  """
  sentences = ' '.join(join_tokens(each) for each in row['sentences'])
  before, mark, after = join_tokens(row['question']).partition(BLANK)
  if not mark:
    raise InputError(
      f"the column 'question' has no blank {BLANK!r}: {row['question']!r}"
    )
  answer = position(row['answer'], row['options'], 'answer')
  context = f'{sentences} {before}'
  group = row.get('config', '')
  texts = [option + after for option in row['options']]
  # Without a space before the blank the filling goes on with a word.
  delimiter = ' ' if context.endswith(' ') else ''
  return choice(context.removesuffix(' '), texts, answer, group, delimiter)


LAMBADA_OPENAI = Benchmark(LAMBADA_ROWS, lambada, 'acc')
CBT = multiple_choice(
  CBT_ROWS,
  cbt,
  group_mean=True,
  note="not in EleutherAI's harness; the form of LibMoE",
)

LIBMOE = {
  'cbt': multiple_choice(CBT_ROWS, cbt, 'acc_strict', group_mean=True),
  'lambada_openai': Benchmark(
    LAMBADA_ROWS,
    lambada,
    'acc',
    note=(
      'every token of the word has to be the most probable one; LibMoE '
      'compares the decoded word, which may be of other tokens'
    ),
  ),
}
