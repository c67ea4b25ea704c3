"""Benchmarks of questions about images, as LibMoE (arXiv 2411.00918) asks them.

Prompts and columns are those of lmms-eval, whose repositories on the hub are
named. Images are in the column `image`: the bytes of a file in parquet, or its
path beside the rows' file. The model answers in words (`Prompt`), which are
judged by the rules of `vision_answers`.
"""

import ast
import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

from moejax.core.errors import InputError
from moejax.evals.benchmark import Benchmark, Dataset, Prompt, Row
from moejax.evals.benchmarks import vision_answers as answers
from moejax.evals.picture import Picture

_LETTER = "\nAnswer with the option's letter from the given choices directly."
_SHORT = '\nAnswer the question using a single word or phrase.'
_YES_OR_NO = ' Please answer yes or no.'
_RULE = 'the published score asks a paid model; this one is of rules alone'
_NONE = (None, '', 'nan')
_QUESTIONS, _IMAGES = (
  'testdev_balanced_instructions',
  'testdev_balanced_images',
)


def _rows(
  hub: str,
  split: str,
  config: str = '',
  images: Sequence[str] = ('image',),
  **columns: Any,
) -> Dataset:
  """A dataset with images; the other columns by name."""
  return Dataset(
    hub,
    config,
    split,
    {'question': str, **columns},
    images=tuple(images),
  )


def _lettered(options: Sequence[str]) -> str:
  """The options, a line each, with letters."""
  return '\n'.join(
    f'{letter}. {option}'
    for letter, option in zip(answers.LETTERS, options, strict=False)
  )


def _asked(
  row: Row, text: str, judge: answers.Judge, tokens: int, **fields: Any
) -> Prompt:
  """A prompt with the row's image before it."""
  picture = row['image']
  if not isinstance(picture, Picture):
    raise InputError('the row has no image; complete or remove it')
  return Prompt(text, judge, max_tokens=tokens, images=(picture,), **fields)


def _right(row: Row, options: Sequence[str]) -> str:
  """The letter of the right option, whose number is the row's answer."""
  number = int(row['answer'])
  if not 0 <= number < len(options):
    raise InputError(
      f'the answer is option {number} of {len(options)}, counted from 0: '
      'correct the answer of the row'
    )
  return answers.LETTERS[number]


def ai2d(row: Row) -> Prompt:
  """A diagram, a question and lettered options, then a letter."""
  options = [*map(str, row['options'])]
  text = f'{row["question"]}\n{_lettered(options)}{_LETTER}'
  judge = answers.option(_right(row, options), options)
  return _asked(row, text, judge, 16)


def textvqa(row: Row) -> Prompt:
  """A question about words in an image; a short answer."""
  text = row['question'].capitalize() + _SHORT
  return _asked(row, text, answers.vqa([*map(str, row['answers'])]), 16)


def gqa(row: Row) -> Prompt:
  """A question about a scene; a short answer."""
  text = row['question'] + _SHORT
  return _asked(row, text, answers.words([row['answer']]), 16)


def joined(rows: Sequence[Row]) -> list[Row]:
  """GQA's questions, each with its image of the other configuration.

  Raises:
    InputError: an image is not there.
  """
  images = {row['id']: row.get('image') for row in rows if 'imageId' not in row}
  found: list[Row] = []
  for row in rows:
    if 'imageId' in row:
      if row['imageId'] not in images:
        raise InputError(
          f'gqa: question {row["id"]} is about the image {row["imageId"]}, '
          f'which {_IMAGES} lacks'
        )
      found.append({**row, 'image': images[row['imageId']]})
  return found


def hallusion(row: Row) -> Prompt:
  """A question of yes or no about a chart or a picture, as it is."""
  parts = [str(row[key]) for key in ('category', 'subcategory', 'set_id')]
  question = '_'.join([*parts, str(row['question_id'])])
  figure = '_'.join([*parts, str(row['figure_id'])])
  return _asked(
    row,
    row['question'],
    answers.hallusion(str(row['gt_answer'])),
    128,
    group=row['category'],
    unit=f'{question}|{figure}',
  )


def mathvista(row: Row) -> Prompt:
  """The column `query`: a hint, the question and its options."""
  picture = row['decoded_image']
  judge = answers.mathvista(
    row['answer'],
    row['answer_type'],
    row.get('precision') or 0,
    [*map(str, row.get('choices') or ())],
  )
  return _asked({'image': picture}, row['query'], judge, 1024)


def mmbench(row: Row) -> Prompt:
  """A hint, a question and up to four lettered options, then a letter."""
  options = [row[key] for key in 'ABCD' if row.get(key) not in _NONE]
  hint = f'{row["hint"]} ' if row.get('hint') not in _NONE else ''
  text = (
    f'{hint}{row["question"]} There are several options:\n'
    f'{_lettered(options)}{_LETTER}'
  )
  return _asked(
    row,
    text,
    answers.option(row['answer'], options, 'acc_rule'),
    256,
    group=row['category'],
    unit=str(int(row['index']) % 10**6),
  )


def mme(row: Row) -> Prompt:
  """A question of yes or no; two of them are about each image."""
  text = row['question'].strip().replace(_YES_OR_NO, '') + _SHORT
  return _asked(
    row,
    text,
    answers.mme(row['answer']),
    16,
    group=row['category'],
    unit=str(row['question_id']),
  )


def mmmu(row: Row) -> Prompt:
  """A question of a college exam, with images in several places."""
  choice = row['question_type'] == 'multiple-choice'
  options = [*map(str, _literal(row['options']))] if choice else []
  text = row['question']
  text += f'\n{_lettered(options)}\n{_LETTER}' if choice else f'\n{_SHORT}'
  numbers = re.findall(r'<image (\d)>', text)
  pictures = [row.get(f'image_{number}') for number in numbers]
  if not numbers or not all(isinstance(one, Picture) for one in pictures):
    raise InputError(
      f'the question names the images {", ".join(numbers) or "of no number"}, '
      'and the row lacks one of them; complete or remove it'
    )
  if choice:
    judge = answers.option(row['answer'], options, 'acc_rule')
  else:
    right = _literal(row['answer']) if row['answer'][:1] == '[' else []
    judge = answers.open_answer([*map(str, right)] or [row['answer']])
  return Prompt(
    re.sub(r'<image \d>', '<image>', text),
    judge,
    max_tokens=128,
    group=re.sub(r'^[^_]*_|_\d+$', '', row['id']),
    images=tuple(one for one in pictures if one is not None),
  )


def _literal(text: str) -> list[Any]:
  """A list that stands in a text, as MMMU has them."""
  try:
    value = ast.literal_eval(text)
  except (ValueError, SyntaxError):
    value = None
  if not isinstance(value, list):
    raise InputError(f'{text[:40]!r} is no list; correct the row')
  return value


def mmstar(row: Row) -> Prompt:
  """A question with its options in it, then a letter."""
  text = row['question'].strip() + _LETTER
  judge = answers.leading_letter(row['answer'])
  return _asked(row, text, judge, 16, group=row['category'])


def pope(row: Row) -> Prompt:
  """Whether an object is in an image."""
  text = row['question'].strip() + _SHORT
  return _asked(
    row, text, answers.pope(row['answer']), 128, group=row['category']
  )


def scienceqa(row: Row) -> Prompt | None:
  """A context, a question and lettered options; rows with an image alone."""
  if row.get('image') is None:
    return None
  hint = f'Context: {row["hint"]}\n' if row['hint'] else ''
  options = [*map(str, row['choices'])]
  text = f'{hint}{row["question"]}\n{_lettered(options)}{_LETTER}'
  return _asked(row, text, answers.first_letter(_right(row, options)), 16)


_Item = Callable[[Row], Prompt | None]
_ID = (int, str)
_HUB = 'lmms-lab-encoder'
_GQA = dataclasses.replace(
  _rows(f'{_HUB}/GQA', 'testdev'),
  columns={'id': str},
  configs=(_QUESTIONS, _IMAGES),
)

VISION: dict[str, Benchmark] = {
  'ai2d': Benchmark(
    _rows(f'{_HUB}/ai2d', 'test', options=list, answer=_ID),
    ai2d,
    'exact_match',
  ),
  'gqa': Benchmark(
    _GQA,
    gqa,
    'exact_match',
    arrange=joined,
    note='questions and images are two configurations',
  ),
  'hallusion_bench_image': Benchmark(
    _rows(
      f'{_HUB}/HallusionBench',
      'image',
      category=str,
      subcategory=str,
      set_id=_ID,
      figure_id=_ID,
      question_id=_ID,
      gt_answer=_ID,
    ),
    hallusion,
    'aAcc_rule',
    totals=answers.hallusion_scores,
    note=_RULE,
  ),
  'mathvista_testmini': Benchmark(
    _rows(
      'AI4Math/MathVista',
      'testmini',
      images=('decoded_image',),
      query=str,
      answer=str,
      answer_type=str,
    ),
    mathvista,
    'acc_rule',
    note=f'{_RULE}; without solved examples',
  ),
  'mmbench_en_dev': Benchmark(
    _rows(f'{_HUB}/MMBench', 'dev', 'en', index=_ID, answer=str, category=str),
    mmbench,
    'circular_rule',
    totals=answers.circular,
    note=f'{_RULE}; all shifts of a question must be right',
  ),
  'mme': Benchmark(
    _rows(f'{_HUB}/MME', 'test', question_id=_ID, answer=str, category=str),
    mme,
    'score',
    totals=answers.mme_score,
    note='perception and cognition together, as a share of 2,800',
  ),
  'mmmu_val': Benchmark(
    _rows(
      f'{_HUB}/MMMU',
      'validation',
      images=[f'image_{number}' for number in range(1, 8)],
      id=str,
      options=str,
      answer=str,
      question_type=str,
    ),
    mmmu,
    'acc_rule',
    note=(
      'an answer without a letter is wrong, where the authors draw one; open '
      'questions by a simpler rule'
    ),
  ),
  'mmstar': Benchmark(
    _rows('Lin-Chen/MMStar', 'val', answer=str, category=str),
    mmstar,
    'exact_match',
    group_mean=True,
  ),
  'pope': Benchmark(
    _rows(f'{_HUB}/POPE', 'test', answer=str, category=str),
    pope,
    'acc',
    totals=answers.pope_scores,
  ),
  'scienceqa_img': Benchmark(
    _rows(
      f'{_HUB}/ScienceQA',
      'test',
      'ScienceQA-IMG',
      choices=list,
      answer=int,
      hint=str,
    ),
    scienceqa,
    'exact_match',
  ),
  'textvqa_val': Benchmark(
    _rows(f'{_HUB}/textvqa', 'validation', answers=list),
    textvqa,
    'exact_match',
    note='without tokens of text recognition; contractions stay as they are',
  ),
}
