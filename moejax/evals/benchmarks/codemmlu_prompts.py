"""CodeMMLU's subsets, and its prompts to the letter (version 0.0.2).

Their line breaks, double spaces and the misspelt word are the authors' own. The
authors' worked examples are not here: a solved row of the same subset takes
their place.
"""

import dataclasses
from collections.abc import Mapping, Sequence

SYNTACTIC, SEMANTIC, REAL_WORLD = 'syntactic', 'semantic', 'real_world'
# The renamed subset: in the paper and the authors' package, and on the hub.
PAPER_NAME, HUB_NAME = 'defect_detection', 'execution_prediction'
KINDS = {
  'api_frameworks': SYNTACTIC,
  'code_completion': REAL_WORLD,
  'code_repair': REAL_WORLD,
  'dbms_sql': SEMANTIC,
  HUB_NAME: REAL_WORLD,
  'fill_in_the_middle': REAL_WORLD,
  'others': SEMANTIC,
  'programming_syntax': SYNTACTIC,
  'software_principles': SEMANTIC,
}
# The paper's modes, and the words before the answer.
ZERO_SHOT, FEW_SHOT = 'zero_shot', 'few_shot'
COT_ZERO_SHOT, COT_FEW_SHOT = 'cot_zero_shot', 'cot_few_shot'
STEPS = "Let's think step by step."
CUES = {
  ZERO_SHOT: 'Answer: ',
  FEW_SHOT: 'Answer: ',
  COT_ZERO_SHOT: f'Answer: {STEPS} ',
  COT_FEW_SHOT: f'Answer: {STEPS} ',
}


@dataclasses.dataclass(frozen=True)
class Form:
  """How the questions of a subset are asked.

  Attributes:
    header: the text before everything else.
    question: the question with its options, up to `Answer:`; has the columns of
      a row in braces.
    headers: the headers of modes that have another one.
    questions: the same of questions.
    cues: the same of the words before the answer.
  """

  header: str
  question: str
  headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
  questions: Mapping[str, str] = dataclasses.field(default_factory=dict)
  cues: Mapping[str, str] = dataclasses.field(default_factory=dict)


_MISSPELT = (
  'The following are multiple choice questions (with answers) about software '
  'devopment.\n'
)
GENERAL = Form(
  'The following are multiple choice questions (with answers) about software '
  'development.\n\n',
  'Question: {question}\n{choices}\n\n',
  headers={
    COT_ZERO_SHOT: f'{_MISSPELT} \n',
    COT_FEW_SHOT: f'{_MISSPELT}\n',
  },
)
_COMPLETION = (
  'Question: Which solution below is the most likely completion the following '
  '\ncode snippet to achieve the desired goal?\n'
)
_FENCED = f'{_COMPLETION}```python\n{{question}}\n```\n{{choices}}\n\n'
COMPLETION = Form(
  'The following are multiple choice questions (with answers) about \n'
  'programming problem.\n\n',
  f'{_COMPLETION}{{question}}\n\n{{choices}}\n\n',
  questions={
    FEW_SHOT: f'{_COMPLETION}```python\n{{question}}\n```\n\n{{choices}}\n\n',
    COT_ZERO_SHOT: _FENCED,
    COT_FEW_SHOT: _FENCED,
  },
)
_MISSING = (
  'Problem statement: {{problem_description}}\n\n'
  'Incomplete Solution:\n{{question}}\n\n'
  'Question: The provided solution is missing a part, Which option below is '
  'the most likely to{}complete the solution and achieve the desired goal?\n\n'
  '{{choices}}\n\n'
)
FILL_IN = Form(
  'The following are multiple-choice questions (with answers) about a '
  'programming problem with incomplete solution.\n\n',
  _MISSING.format(' '),
  headers={
    COT_FEW_SHOT: 'The following are multiple-choice questions (with answers) '
    'about a programming problem\nwith incomplete solution.\n\n'
  },
  questions={
    COT_ZERO_SHOT: _MISSING.format('\n'),
    COT_FEW_SHOT: _MISSING.format('\n'),
  },
)
REPAIR = Form(
  'The following are multiple-choice questions (with answers) about debugging '
  'a programming problem.\n\n',
  'Question: The implementation below is producing incorrect results. \n'
  'Which solution below correctly identifies the bug and repairs it to achieve '
  'the desired goal?\n{question}\n\n{choices}\n\n',
)
EXECUTION = Form(
  'The following are multiple choice questions (with answers) about '
  'programming problem.\n\n',
  'Question: Given a code snippet below, which behavior most likely to occur '
  'when execute it?\n{question}\n\n{choices}\n\n',
  cues={COT_FEW_SHOT: f'Answer: {STEPS}'},
)
FORMS = dict.fromkeys(KINDS, GENERAL) | {
  'code_completion': COMPLETION,
  'code_repair': REPAIR,
  HUB_NAME: EXECUTION,
  'fill_in_the_middle': FILL_IN,
}


def options(letters: str, choices: Sequence[str]) -> str:
  """The lines of options, such as '(A) text'."""
  return '\n'.join(
    f'({letter}) {choice}'
    for letter, choice in zip(letters, choices, strict=True)
  )


def header(subset: str, mode: str) -> str:
  """The text before the questions of a subset."""
  form = FORMS[subset]
  return form.headers.get(mode, form.header)


def question(subset: str, mode: str, columns: Mapping[str, str]) -> str:
  """A question with its options and the words before its answer.

  Args:
    subset: as the hub names it.
    mode: a key of CUES.
    columns: `question`, `choices` as lines, and `problem_description`.
  """
  form = FORMS[subset]
  text = form.questions.get(mode, form.question).format(**columns)
  return text + form.cues.get(mode, CUES[mode])
