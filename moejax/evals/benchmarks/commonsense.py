"""Common sense: HellaSwag, PIQA, ARC, OpenBookQA, CommonsenseQA, SIQA, ...

WinoGrande is scored partially (Trinh & Le, arXiv 1806.02847): the options stand
in the context, and what is scored is the rest of the sentence, which is the
same for both.
"""

import dataclasses
import re
from collections.abc import Callable

from moejax.core.errors import InputError
from moejax.evals.benchmark import Choice, Dataset, Row
from moejax.evals.benchmarks.forms import (
  LETTERS,
  choice,
  lettered,
  multiple_choice,
  position,
  question_answer,
)

HELLASWAG_ROWS = Dataset(
  'Rowan/hellaswag',
  '',
  'validation',
  {
    'activity_label': str,
    'ctx_a': str,
    'ctx_b': str,
    'endings': list,
    'label': str,
  },
  shots_split='train',
)
PIQA_ROWS = Dataset(
  'baber/piqa',
  '',
  'validation',
  {'goal': str, 'sol1': str, 'sol2': str, 'label': int},
  shots_split='train',
  tfds='piqa',
)
CHOICES = {'choices': dict, 'answerKey': str}
ARC_EASY_ROWS = Dataset(
  'allenai/ai2_arc',
  'ARC-Easy',
  'test',
  {'question': str, **CHOICES},
  shots_split='train',
)
ARC_CHALLENGE_ROWS = dataclasses.replace(ARC_EASY_ROWS, config='ARC-Challenge')
OPENBOOKQA_ROWS = Dataset(
  'allenai/openbookqa',
  'main',
  'test',
  {'question_stem': str, **CHOICES},
  shots_split='train',
)
COMMONSENSE_QA_ROWS = Dataset(
  'tau/commonsense_qa',
  '',
  'validation',
  {'question': str, **CHOICES},
  shots_split='train',
)
SIQA_ROWS = Dataset(
  'lighteval/siqa',
  '',
  'validation',
  {
    'context': str,
    'question': str,
    'answerA': str,
    'answerB': str,
    'answerC': str,
    'label': str,
  },
  shots_split='train',
)
WINOGRANDE_ROWS = Dataset(
  'allenai/winogrande',
  'winogrande_xl',
  'validation',
  {'sentence': str, 'option1': str, 'option2': str, 'answer': str},
  shots_split='train',
)


def without_titles(text: str) -> str:
  """Text without WikiHow's marks for titles, and with single spaces."""
  return text.strip().replace(' [title]', '. ').replace('  ', ' ')


def clean(text: str) -> str:
  """Text without the marks of WikiHow's pages that HellaSwag still has."""
  text = text.strip().replace(' [title]', '. ')
  return re.sub(r'\[.*?\]', '', text).replace('  ', ' ')


def hellaswag(row: Row, cleaned: Callable[[str], str] = clean) -> Choice:
  """`Activity: first sentence Second sentence's start`, then its endings."""
  context = f'{row["ctx_a"]} {row["ctx_b"].capitalize()}'
  return choice(
    cleaned(f'{row["activity_label"]}: {context}'),
    [cleaned(ending) for ending in row['endings']],
    position(row['label'], '0123', 'label'),
  )


def marked_hellaswag(row: Row) -> Choice:
  """As `hellaswag`; WikiHow's marks stay in the text, but for titles."""
  return hellaswag(row, without_titles)


def piqa(row: Row) -> Choice:
  """The goal as a question, then its two solutions."""
  return question_answer(row['goal'], (row['sol1'], row['sol2']), row['label'])


def running_piqa(row: Row) -> Choice:
  """The goal as running text, which a solution goes on with."""
  return choice(row['goal'], (row['sol1'], row['sol2']), row['label'])


def right_choice(row: Row) -> int:
  """The index of `answerKey` among the labels, which are letters or digits."""
  return position(
    row['answerKey'].strip(), row['choices']['label'], 'answerKey'
  )


def arc(row: Row) -> Choice:
  """The question, then its options as text."""
  return question_answer(
    row['question'], row['choices']['text'], right_choice(row)
  )


def arc_of_four(row: Row) -> Choice | None:
  """As `arc`; rows without exactly four options are left out."""
  return arc(row) if len(row['choices']['text']) == 4 else None


def arc_per_prior(row: Row) -> Choice:
  """As `arc`, with the options after `Answer:` alone to compare with."""
  return dataclasses.replace(arc(row), unconditional='Answer:')


def openbookqa(row: Row) -> Choice:
  """The stem as running text, which an option goes on with."""
  return choice(row['question_stem'], row['choices']['text'], right_choice(row))


def openbookqa_per_prior(row: Row) -> Choice:
  """As `openbookqa`, with the options after `Answer:` alone to compare with."""
  return dataclasses.replace(openbookqa(row), unconditional='Answer:')


def asked_openbookqa(row: Row) -> Choice:
  """The stem as a question, then its options as text."""
  return question_answer(
    row['question_stem'], row['choices']['text'], right_choice(row)
  )


def commonsense_qa(row: Row) -> Choice:
  """The question with lettered options, then a letter."""
  return lettered(
    f'Question: {row["question"].strip()}',
    row['choices']['text'],
    'Answer:',
    position(row['answerKey'], LETTERS[:5], 'answerKey'),
  )


def social_iqa(row: Row, form: str = 'Q: {context} {question}\nA:') -> Choice:
  """`Q: context question`, then three answers."""
  return choice(
    form.format(context=row['context'], question=row['question']),
    (row['answerA'], row['answerB'], row['answerC']),
    position(row['label'].strip(), '123', 'label'),
  )


def long_social_iqa(row: Row) -> Choice:
  """Context and question on lines of their own, then three answers."""
  return social_iqa(row, 'Context: {context}\nQuestion: {question}\nAnswer:')


def blank(row: Row) -> tuple[str, str]:
  """The text before and after the blank of a sentence."""
  before, mark, after = row['sentence'].partition('_')
  if not mark:
    raise InputError(
      f"the column 'sentence' has no blank '_': {row['sentence']!r}"
    )
  return before, after.strip()


def winogrande(row: Row) -> Choice:
  """Two fillings of the blank as contexts, one common rest of the sentence."""
  before, after = blank(row)
  return Choice(
    contexts=(before + row['option1'], before + row['option2']),
    options=(f' {after}',) * 2,
    answer=position(row['answer'], '12', 'answer'),
    texts=(after,) * 2,
  )


def naive_winogrande(row: Row) -> Choice:
  """The sentence with its blank as a question, and the fillings as answers."""
  return question_answer(
    row['sentence'],
    (row['option1'], row['option2']),
    position(row['answer'], '12', 'answer'),
  )


UNCONDITIONAL = (
  'DeepSeek-LLM (arXiv 2401.02954) divides by the probability of the option '
  'without the question; the form without solved rows is not printed'
)
HELLASWAG = multiple_choice(HELLASWAG_ROWS, hellaswag, 'acc_norm')
PIQA = multiple_choice(PIQA_ROWS, piqa, 'acc_norm')
ARC_EASY = multiple_choice(ARC_EASY_ROWS, arc, 'acc_norm')
ARC_CHALLENGE = multiple_choice(ARC_CHALLENGE_ROWS, arc, 'acc_norm')
OPENBOOKQA = multiple_choice(OPENBOOKQA_ROWS, openbookqa, 'acc_norm')
COMMONSENSE_QA = multiple_choice(COMMONSENSE_QA_ROWS, commonsense_qa)
SOCIAL_IQA = multiple_choice(SIQA_ROWS, social_iqa)
WINOGRANDE = multiple_choice(WINOGRANDE_ROWS, winogrande)

DEEPSEEKMOE = {
  'arc_challenge': multiple_choice(
    ARC_CHALLENGE_ROWS, arc_per_prior, 'acc_mutual', note=UNCONDITIONAL
  ),
  'arc_easy': multiple_choice(
    ARC_EASY_ROWS, arc_per_prior, 'acc_mutual', note=UNCONDITIONAL
  ),
  'hellaswag': multiple_choice(HELLASWAG_ROWS, hellaswag, 'acc_token'),
  'openbookqa': multiple_choice(
    OPENBOOKQA_ROWS,
    openbookqa_per_prior,
    'acc_mutual',
    note='the report of DeepSeek-V2 prints its form; DeepSeekMoE has no number',
  ),
  'piqa': multiple_choice(PIQA_ROWS, running_piqa, 'acc_token'),
  'winogrande': multiple_choice(WINOGRANDE_ROWS, winogrande, 'acc_token'),
}

STRICT = 'acc_token_strict'
LIBMOE = {
  'arc_challenge': multiple_choice(
    ARC_CHALLENGE_ROWS,
    arc_of_four,
    STRICT,
  ),
  'arc_easy': multiple_choice(
    ARC_EASY_ROWS,
    arc_of_four,
    STRICT,
  ),
  'commonsense_qa': multiple_choice(COMMONSENSE_QA_ROWS, arc, STRICT),
  'hellaswag': multiple_choice(
    HELLASWAG_ROWS,
    marked_hellaswag,
    STRICT,
    note="LibMoE's code means to remove the marks",
  ),
  'openbookqa': multiple_choice(OPENBOOKQA_ROWS, asked_openbookqa, STRICT),
  'piqa': multiple_choice(PIQA_ROWS, piqa, STRICT),
  'social_iqa': multiple_choice(SIQA_ROWS, long_social_iqa, STRICT),
  'winogrande': multiple_choice(
    WINOGRANDE_ROWS,
    naive_winogrande,
    STRICT,
    note='the options are scored, not the rest of the sentence',
  ),
}
