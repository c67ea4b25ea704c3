"""Benchmarks of images: prompts, images and scores by hand.

Rows were written for the test, in the published columns.
"""

import io
import re

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from helpers.generated_cases import GeneratedCase, Writer, asked, check
from PIL import Image

from moejax.core import errors
from moejax.evals import paired, prompts, suite
from moejax.evals.benchmark import Prompt
from moejax.evals.benchmarks import SUITES, vision_answers
from moejax.evals.engine import ModelEngine
from moejax.vision.images import ReadConfig

LETTER = "\nAnswer with the option's letter from the given choices directly."
SHORT = '\nAnswer the question using a single word or phrase.'


def row(question, **columns):
  return {'question': question, 'image': 'a.png', **columns}


def yes_no(category, image, question, answer):
  return row(question, question_id=image, category=category, answer=answer)


def hallusion(question_id, figure, answer, **columns):
  parts = {'category': 'VD', 'subcategory': 'illusion', 'set_id': '3'}
  ids = {'question_id': question_id, 'figure_id': figure}
  return row('Are they equal?', gt_answer=answer, **parts, **ids, **columns)


def star(answer, category):
  return row(' Which? (A) x (B) y ', answer=answer, category=category)


def bench(index, answer, options, hint='nan'):
  letters = dict(zip('ABCD', [*options, 'nan', 'nan'], strict=False))
  more = {'index': index, 'answer': answer, 'category': 'colour', 'hint': hint}
  return row('Which one?', **more, **letters)


OPTIONS = 'There are several options:\n'
VISTA = {
  'question': 'How many?',
  'decoded_image': 'a.png',
  'precision': None,
  'choices': None,
}
MMMU = {'question_type': 'multiple-choice', 'image_1': 'a.png'}

CASES = [
  # A letter with a mark, a letter in brackets that is wrong, an option's text.
  GeneratedCase(
    'vision',
    'ai2d',
    [row('What eats?', options=['owl', 'fox', 'elm'], answer=str(n))
     for n in (1, 1, 2)],
    [f'What eats?\nA. owl\nB. fox\nC. elm{LETTER}'] * 3,
    ['B.', 'It is (A)', 'The elm'],
    {'exact_match': pytest.approx(2 / 3)},
  ),
  # Case and marks do not count; another word does.
  GeneratedCase(
    'vision',
    'gqa',
    [
      {'config': 'testdev_balanced_instructions', 'id': '1', 'imageId': 'n7',
       'question': 'What is red?', 'answer': 'car'},
      {'config': 'testdev_balanced_instructions', 'id': '2', 'imageId': 'n7',
       'question': 'Who runs?', 'answer': 'man'},
      {'config': 'testdev_balanced_images', 'id': 'n7', 'image': 'a.png'},
    ],
    [f'What is red?{SHORT}', f'Who runs?{SHORT}'],
    ['Car.', 'a man'],
    {'exact_match': 0.5},
  ),
  # Question 0 is right about both figures, 1 about the second alone: 3 of 4
  # answers, 1 of 2 questions, 1 of 2 figures.
  GeneratedCase(
    'vision',
    'hallusion_bench_image',
    [
      hallusion('0', '1', '1'), hallusion('1', '1', '0'),
      hallusion('0', '2', '0'), hallusion('1', '2', '1'),
    ],
    ['Are they equal?'] * 4,
    ['Yes, they are.', 'Yes.', 'No', 'yes'],
    {'aAcc_rule': 0.75, 'qAcc_rule': 0.5, 'fAcc_rule': 0.5},
  ),
  # An option by its letter and by likeness; a number, the last one of a text;
  # a float to two places; a list.
  GeneratedCase(
    'vision',
    'mathvista_testmini',
    [
      {**VISTA, 'query': 'q1', 'answer': 'blue', 'answer_type': 'text',
       'choices': ['red', 'blue']},
      {**VISTA, 'query': 'q2', 'answer': 'blue', 'answer_type': 'text',
       'choices': ['red', 'blue']},
      {**VISTA, 'query': 'q3', 'answer': '14', 'answer_type': 'integer'},
      {**VISTA, 'query': 'q4', 'answer': '1.45', 'answer_type': 'float',
       'precision': 2.0},
      {**VISTA, 'query': 'q5', 'answer': '[1, 2]', 'answer_type': 'list'},
      {**VISTA, 'query': 'q6', 'answer': '3', 'answer_type': 'integer'},
    ],
    ['q1', 'q2', 'q3', 'q4', 'q5', 'q6'],
    ['The answer is (B)', 'blu', 'Of 20 there are 14.', 'It costs $1.449',
     'They are [1, 2].', 'three'],
    {'acc_rule': pytest.approx(5 / 6)},
  ),
  # The question 7 is right in both orders of its options, 8 in one: 3 of 4
  # answers are right, and 1 of 2 questions.
  GeneratedCase(
    'vision',
    'mmbench_en_dev',
    [
      bench(7, 'A', ['red', 'blue'], hint='Look.'),
      bench(8, 'B', ['one', 'two', 'three']),
      bench(1000007, 'B', ['blue', 'red'], hint='Look.'),
      bench(1000008, 'C', ['two', 'three', 'one']),
    ],
    [
      f'Look. Which one? {OPTIONS}A. red\nB. blue{LETTER}',
      f'Which one? {OPTIONS}A. one\nB. two\nC. three{LETTER}',
      f'Look. Which one? {OPTIONS}A. blue\nB. red{LETTER}',
      f'Which one? {OPTIONS}A. two\nB. three\nC. one{LETTER}',
    ],
    ['A', 'B', 'red', 'B'],
    {'acc_rule': 0.75, 'circular_rule': 0.5},
  ),
  # existence: 3 of 4 questions and 1 of 2 images, 75 + 50; code_reasoning: 1 of
  # 2 and none, 50.
  GeneratedCase(
    'vision',
    'mme',
    [
      yes_no('existence', 'a', 'A cat? Please answer yes or no.', 'Yes'),
      yes_no('existence', 'a', 'A dog? Please answer yes or no.', 'No'),
      yes_no('existence', 'b', 'A cat? Please answer yes or no.', 'Yes'),
      yes_no('existence', 'b', 'A dog? Please answer yes or no.', 'No'),
      yes_no('code_reasoning', 'a', 'Is it 3? Please answer yes or no.', 'Yes'),
      yes_no('code_reasoning', 'a', 'Is it 4? Please answer yes or no.', 'No'),
    ],
    [f'{text}{SHORT}' for text in (
      'A cat?', 'A dog?', 'A cat?', 'A dog?', 'Is it 3?', 'Is it 4?')],
    ['Yes.', 'No, none', 'y', 'Yes', 'certainly', 'no'],
    {
      'acc': pytest.approx(4 / 6),
      'perception': 125.0,
      'cognition': 50.0,
      'score': 175 / 2800,
    },
  ),
  # Images in the question and among the options; a number; a list of answers;
  # two letters, which are none.
  GeneratedCase(
    'vision',
    'mmmu_val',
    [
      {**MMMU, 'id': 'validation_Art_1', 'image_2': 'b.png', 'answer': 'B',
       'question': '<image 1> is like', 'options': "['x', '<image 2>']"},
      {**MMMU, 'id': 'validation_Art_Theory_12', 'question': 'Of <image 1>',
       'question_type': 'open', 'options': '[]', 'answer': '2.50'},
      {**MMMU, 'id': 'validation_Art_2', 'question': 'Of <image 1>',
       'question_type': 'open', 'options': '[]', 'answer': "['oak', 'elm']"},
      {**MMMU, 'id': 'validation_Art_3', 'question': '<image 1> is',
       'options': "['x', 'y']", 'answer': 'A'},
    ],
    [
      f'<image> is like\nA. x\nB. <image>\n{LETTER}',
      f'Of <image>\n{SHORT}',
      f'Of <image>\n{SHORT}',
      f'<image> is\nA. x\nB. y\n{LETTER}',
    ],
    ['(B)', '10 / 4 = 2.5', 'An Elm tree', 'A or B'],
    {'acc_rule': 0.75},
  ),
  # math has 1 of 2, logic 0 of 1: the mean of groups is a quarter.
  GeneratedCase(
    'vision',
    'mmstar',
    [star('A', 'math'), star('B', 'math'), star('B', 'logic')],
    [f'Which? (A) x (B) y{LETTER}'] * 3,
    ['The answer is A', 'A: x', 'It is B'],
    {'exact_match': 0.25},
  ),
  # Two hits, one false alarm, one miss, and an answer that is neither.
  GeneratedCase(
    'vision',
    'pope',
    [row('Is it there?', category='random', answer=answer)
     for answer in ('yes', 'yes', 'no', 'yes', 'no')],
    [f'Is it there?{SHORT}'] * 5,
    ['Yes', 'yes', 'yes', 'no', 'No, it is not'],
    {
      'acc': 0.4,
      'said_yes': pytest.approx(0.6),
      'said_no': pytest.approx(0.2),
      'is_yes': pytest.approx(0.6),
      'precision': pytest.approx(2 / 3),
      'recall': pytest.approx(2 / 3),
      'f1': pytest.approx(2 / 3),
      'yes_ratio': pytest.approx(0.6),
    },
  ),
  # A row without an image is left out; a letter is alone or before a full stop.
  GeneratedCase(
    'vision',
    'scienceqa_img',
    [
      row('Why?', choices=['up', 'down'], answer=1, hint='It falls.'),
      row('Why?', choices=['up', 'down'], answer=0, hint=''),
      row('Why?', choices=['up', 'down'], answer=0, hint=''),
      {**row('Why?', choices=['up', 'down'], answer=0, hint=''), 'image': None},
    ],
    [
      f'Context: It falls.\nWhy?\nA. up\nB. down{LETTER}',
      f'Why?\nA. up\nB. down{LETTER}',
      f'Why?\nA. up\nB. down{LETTER}',
    ],
    ['B. down', 'A', 'A is right'],
    {'exact_match': pytest.approx(2 / 3)},
  ),
  # Of ten people three say 2: who did so sees two others, 2/3, the others see
  # three, 1; and 1 for seven of ten. Nobody says `stop sign`.
  GeneratedCase(
    'vision',
    'textvqa_val',
    [
      row('what does IT say?', answers=['two'] * 3 + ['the stop'] * 7),
      row('what does IT say?', answers=['two'] * 3 + ['the stop'] * 7),
      row('what does IT say?', answers=['two'] * 3 + ['the stop'] * 7),
    ],
    [f'What does it say?{SHORT}'] * 3,
    ['2', 'Stop!', 'stop sign'],
    {'exact_match': pytest.approx((0.9 + 1 + 0) / 3)},
  ),
]  # fmt: skip


@pytest.mark.parametrize('case', CASES, ids=str)
def test_prompts_and_scores(case, tmp_path):
  check(tmp_path, case)


def test_images_are_in_the_order_of_the_text(tmp_path):
  (case,) = (case for case in CASES if case.name == 'mmmu_val')
  items = asked(tmp_path, case).items
  names = [[image.name for image in item.images] for item in items]
  assert names == [['a.png', 'b.png'], ['a.png'], ['a.png'], ['a.png']]
  assert [item.group for item in items] == ['Art', 'Art_Theory', 'Art', 'Art']
  folders = {image.folder for item in items for image in item.images}
  assert folders == {str(tmp_path / 'mmmu_val')}


@pytest.mark.parametrize(
  ('text', 'found'),
  [
    ('B', 'B'),
    ('(B)', 'B'),
    ('Answer: B.', 'B'),
    ('A cat is on it', None),
    ('a red one', 'A'),
    ('ABC', None),
    ('A B', None),
    ('D', None),
    ('', None),
  ],
)
def test_a_letter_is_named_or_an_option_is_written(text, found):
  assert vision_answers.letter(text, ['red', 'blue', 'green']) == found


@pytest.mark.parametrize(
  ('text', 'words'),
  [
    ('The  Two, dogs!', '2 dogs'),
    ('1,000.50 a day', '1000.50 day'),
    ('new-york', 'new york'),
    ("it's 5:30", "it's 5:30"),
  ],
)
def test_words_of_short_answers(text, words):
  assert vision_answers.vqa_words(text) == words


def test_edits_are_counted():
  assert vision_answers.edits('kitten', 'sitting') == 3
  assert vision_answers.edits('', 'ab') == 2


def _ask(name, folder, rows):
  return asked(folder, GeneratedCase('vision', name, rows, (), (), {}))


@pytest.mark.parametrize(
  ('name', 'rows', 'message'),
  [
    ('pope', [{**row('q', answer='yes', category='x'), 'image': None}],
     'the row has no image'),
    ('pope', [{**row('q', answer='yes', category='x'), 'image': 3}],
     'pope/test.jsonl:1, image is no image'),
    ('ai2d', [row('q', options=['a', 'b'], answer='2')],
     'the answer is option 2 of 2'),
    ('mmmu_val', [{**MMMU, 'id': 'v_Art_1', 'question': '<image 2>',
                   'options': '[]', 'answer': 'A'}],
     'the question names the images 2, and the row lacks one'),
    ('mmmu_val', [{**MMMU, 'id': 'v_Art_1', 'question': '<image 1>',
                   'options': 'a, b', 'answer': 'A'}],
     "'a, b' is no list"),
    ('gqa', [{'config': 'testdev_balanced_instructions', 'id': '1',
              'imageId': 'n7', 'question': 'q', 'answer': 'a'},
             {'config': 'testdev_balanced_images', 'id': 'n8', 'image': 'x'}],
     'question 1 is about the image n7'),
  ],
)  # fmt: skip
def test_rows_that_cannot_be_asked_are_one_line(name, rows, message, tmp_path):
  with pytest.raises(errors.InputError, match=re.escape(message)) as e:
    _ask(name, tmp_path, rows)
  assert '\n' not in str(e.value)


def test_options_that_are_numbers_are_read_as_text(tmp_path):
  task = _ask('ai2d', tmp_path, [row('q', options=[3, 4], answer='1')])
  assert task.items[0].judge('It is 4') == {'exact_match': 1.0}


def test_a_number_of_hundreds_of_digits_is_wrong():
  for kind in ('integer', 'float'):
    judge = vision_answers.mathvista('9', kind, 1, None)
    assert judge('9' * 400) == {'acc_rule': 0.0}


def test_images_are_bytes_in_parquet(tmp_path):
  pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
  data = io.BytesIO()
  Image.fromarray(pixels).save(data, 'PNG')
  columns = {
    'question': ['q'],
    'answer': ['yes'],
    'category': ['random'],
    'image': [{'bytes': data.getvalue(), 'path': 'x.png'}],
  }
  path = tmp_path / 'POPE' / 'data' / 'test-00000-of-00001.parquet'
  path.parent.mkdir(parents=True)
  pyarrow.parquet.write_table(pyarrow.table(columns), path)
  task = prompts.ask('pope', SUITES['vision']['pope'], str(tmp_path))
  ((image,),) = [item.images for item in task.items]
  np.testing.assert_array_equal(image.pixels(ReadConfig()), pixels)


def test_another_image_is_another_question(tmp_path):
  rows = [row('q', answer='yes', category='x')]
  first = _ask('pope', tmp_path / '1', rows)
  same = _ask('pope', tmp_path / '2', rows)
  other = _ask('pope', tmp_path / '3', [{**rows[0], 'image': 'b.png'}])
  assert first.digest == same.digest != other.digest


def test_prompts_without_images_have_the_digest_of_earlier_versions():
  item = Prompt('q', lambda _: {}, ('\n',), 8)
  # SHA-256 of {"group": "", "max_tokens": 8, "program": null, "stops": ["\n"],
  # "text": "q"}, as versions before images wrote it.
  assert prompts.digest([item]) == (
    '0da3f46011e698b52c2435f40cc2a0dd791b74168482b2f297e9752afa6fbaf1'
  )


def test_the_hub_is_refused():
  with pytest.raises(errors.InputError, match='give --data=FOLDER, not hub'):
    prompts.ask('pope', SUITES['vision']['pope'], 'hub')


def test_a_model_of_text_alone_is_not_asked(tmp_path):
  task = _ask('pope', tmp_path, [row('q', answer='yes', category='x')])
  engine = ModelEngine(None, None, None)
  with pytest.raises(errors.InputError, match='the model reads text alone'):
    suite.score(task, engine)


def test_a_score_of_all_items_has_no_error_and_no_test(tmp_path):
  (case,) = (case for case in CASES if case.name == 'mme')
  task = asked(tmp_path, case)
  result = suite.score(task, Writer(case.outputs))
  assert result.stderr is None
  assert suite.Result.from_json(result.to_json()) == result
  assert paired.compare(result, result) is None
