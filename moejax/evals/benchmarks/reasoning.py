"""BIG-Bench Hard (arXiv 2210.09261): 27 tasks, answered step by step."""

import re
from collections.abc import Callable, Sequence
from typing import Any

from moejax.core.errors import InputError
from moejax.evals.benchmark import Dataset, Prompt, Row, Values
from moejax.evals.benchmarks.free_form import generated

DEDUCTION = (
  'A logical deduction task which requires deducing the order of a sequence of '
  'objects.'
)
SHUFFLED = (
  'A task requiring determining the final positions of a set of objects given '
  'their initial positions and a description of a sequence of swaps.'
)
# The sentence that introduces each task.
TASKS = {
  'boolean_expressions': 'Evaluate the result of a random Boolean expression.',
  'causal_judgement': 'Answer questions about causal attribution.',
  'date_understanding': 'Infer the date from context.',
  'disambiguation_qa': (
    'Clarify the meaning of sentences with ambiguous pronouns.'
  ),
  'dyck_languages': 'Correctly close a Dyck-n word.',
  'formal_fallacies': (
    'Distinguish deductively valid arguments from formal fallacies.'
  ),
  'geometric_shapes': 'Name geometric shapes from their SVG paths.',
  'hyperbaton': 'Order adjectives correctly in English sentences.',
  'logical_deduction_five_objects': DEDUCTION,
  'logical_deduction_seven_objects': DEDUCTION,
  'logical_deduction_three_objects': DEDUCTION,
  'movie_recommendation': (
    'Recommend movies similar to the given list of movies.'
  ),
  'multistep_arithmetic_two': 'Solve multi-step arithmetic problems.',
  'navigate': (
    'Given a series of navigation instructions, determine whether one would '
    'end up back at the starting point.'
  ),
  'object_counting': (
    'Questions that involve enumerating objects and asking the model to count '
    'them.'
  ),
  'penguins_in_a_table': (
    'Answer questions about a table of penguins and their attributes.'
  ),
  'reasoning_about_colored_objects': (
    'Answer extremely simple questions about the colors of objects on a '
    'surface.'
  ),
  'ruin_names': (
    "Select the humorous edit that 'ruins' the input movie or musical artist "
    'name.'
  ),
  'salient_translation_error_detection': (
    'Detect the type of error in an English translation of a German source '
    'sentence.'
  ),
  'snarks': (
    'Determine which of two sentences is sarcastic.\n\n'
    'According to Cambridge University Dictionary, sarcasm is "the use of '
    'remarks that clearly mean the opposite of what they say, made in order to '
    'hurt someone\'s feelings or to criticize something in a humorous way." '
    'Sarcastic sentences often contain satirical or ironic utterances, '
    'hyperboles, ambivalent or witty remarks.'
  ),
  'sports_understanding': (
    'Determine whether an artificially constructed sentence relating to sports '
    'is plausible or not.'
  ),
  'temporal_sequences': (
    'Task description: Answer questions about which times certain events could '
    'have occurred.'
  ),
  'tracking_shuffled_objects_five_objects': SHUFFLED,
  'tracking_shuffled_objects_seven_objects': SHUFFLED,
  'tracking_shuffled_objects_three_objects': SHUFFLED,
  'web_of_lies': (
    'Evaluate a random boolean function expressed as a word problem.'
  ),
  'word_sorting': 'Sort a list of words.',
}
ROWS = Dataset(
  'SaylorTwift/bbh',
  '',
  'test',
  {'input': str, 'target': str},
  configs=tuple(TASKS),
)
RATIONALE = 'rationale'


def task(row: Row) -> str:
  """The task of a row, which is its configuration.

  Raises:
    InputError: the task is unknown.
  """
  name = row.get('config', '')
  if name not in TASKS:
    raise InputError(
      f"the column 'config' is {name!r}, which is no task of BIG-Bench Hard: "
      'name the folder or file of the rows after one, such as '
      f'{next(iter(TASKS))!r}'
    )
  return name


def header(row: Row) -> str:
  """The sentence that introduces the task."""
  return f'{TASKS[task(row)]}\n\n'


def extracted(text: str) -> str | None:
  """What follows `the answer is ` in its line, without its last character.

  The harness takes that character for a full stop.
  """
  match = re.search('(?<=the answer is )(.*)(?=.)', text)
  return match and match[1].strip()


def step_by_step(stops: tuple[str, ...]) -> Callable[[Row], Prompt]:
  """Asks for a chain of thought, which any of the strings ends."""

  def item(row: Row) -> Prompt:
    def judge(text: str) -> Values:
      return {'exact_match': float(extracted(text) == row['target'])}

    return Prompt(
      f"Q: {row['input']}\nA: Let's think step by step.\n",
      judge,
      stops,
      max_tokens=1024,
      group=task(row),
    )

  return item


def solved(row: Row) -> str:
  """The reasoning, where the row has one, and the answer."""
  reasoning = row.get(RATIONALE) or ''
  space = ' ' if reasoning else ''
  return f'{reasoning}{space}So the answer is {row["target"]}.'


def three(rows: Sequence[Row]) -> list[Row]:
  """The first three rows of a task; those with a reasoning come first."""
  return sorted(rows, key=lambda row: not row.get(RATIONALE))[:3]


FORM: dict[str, Any] = {
  'shots': 3,
  'fixed': three,
  'shots_by_group': True,
  'header': header,
  'note': (
    "the three solved rows are others of the task; the authors' reasoning, "
    'which is not in the dataset, is shown if a column `rationale` has it, and '
    'without it scores are lower'
  ),
}
BBH = generated(ROWS, step_by_step(('</s>', 'Q', '\n\n')), solved, **FORM)

DEEPSEEKMOE = {
  'bbh': generated(ROWS, step_by_step(('\n\n', 'Q:')), solved, **FORM),
}
