"""The offline suite: its items are sound, and say nothing by their form."""

import collections
import re

import pytest
from helpers.benchmark_cases import Case, check

from moejax.data import long_text, tasks
from moejax.evals import prompts
from moejax.evals.benchmark import Choice
from moejax.evals.benchmarks import offline

CASES = [
  Case(
    'offline',
    'offline_cloze',
    [
      {
        'context': 'The sky is',
        'word': ' blue',
        'others': [' days', ' refer', ' wheat'],
        'domain': 'speeches',
      }
    ],
    [
      Choice(
        ('The sky is',) * 4,
        (' refer', ' days', ' wheat', ' blue'),
        3,
        group='speeches',
      )
    ],
    {' refer': (-5, 1), ' days': (-4, 1), ' wheat': (-6, 1), ' blue': (-3, 2)},
    1.0,
  ),
  Case(
    'offline',
    'offline_continuation',
    [
      {
        'context': 'One two',
        'words': [' three', ' four', ' five'],
        'domain': 'code',
      }
    ],
    [
      Choice(
        ('One two',) * 4,
        (
          ' three four five',
          ' five three four',
          ' four five three',
          ' three five four',
        ),
        0,
        group='code',
      )
    ],
    {
      ' three four five': (-5, 3),
      ' five three four': (-9, 3),
      ' four five three': (-9, 3),
      ' three five four': (-4, 3),
    },
    0.0,
  ),
  Case(
    'offline',
    'offline_gloss',
    [
      {
        'start': 'river: a large stream of',
        'end': ' water in a bed',
        'others': [
          ' near to the city',
          ' shalt go with me',
          ' for the common good',
        ],
        'kind': 'thing',
      }
    ],
    [
      Choice(
        ('river: a large stream of',) * 4,
        (
          ' water in a bed',
          ' for the common good',
          ' near to the city',
          ' shalt go with me',
        ),
        0,
        group='thing',
        unconditional='',
      )
    ],
    # The answer is not the most probable, but it gains the most by its context:
    # 4, against -1, -12 and -1.
    {
      ('river: a large stream of', ' water in a bed'): (-16, 4),
      ('', ' water in a bed'): (-20, 4),
      ('river: a large stream of', ' near to the city'): (-9, 4),
      ('', ' near to the city'): (-8, 4),
      ('river: a large stream of', ' shalt go with me'): (-30, 4),
      ('', ' shalt go with me'): (-18, 4),
      ('river: a large stream of', ' for the common good'): (-12, 4),
      ('', ' for the common good'): (-11, 4),
    },
    1.0,
  ),
  Case(
    'offline',
    'offline_grammar',
    [
      {
        'good': 'He was here.',
        'bad': 'He were here.',
        'phenomenon': 'agreement',
      }
    ],
    [Choice(('', ''), ('He was here.', 'He were here.'), 0, group='agreement')],
    {'He was here.': (-9, 4), 'He were here.': (-11, 4)},
    1.0,
  ),
]


@pytest.mark.parametrize('case', CASES, ids=str)
def test_items_and_score(case):
  check(case)


@pytest.fixture(scope='module')
def asked():
  return {
    name: prompts.ask(name, benchmark, 'hub').items
    for name, benchmark in offline.OFFLINE.items()
  }


def test_each_task_has_enough_items_in_each_group(asked):
  for name, items in asked.items():
    sizes = collections.Counter(item.group for item in items)
    assert min(sizes.values()) >= 30, (name, sizes)


def test_the_place_of_the_answer_tells_nothing(asked):
  for name, items in asked.items():
    count = len(items[0].options)
    assert {len(item.options) for item in items} == {count}, name
    places = collections.Counter(item.answer for item in items)
    wanted = len(items) / count
    # Four standard deviations of a binomial number.
    bound = 4 * (wanted * (1 - 1 / count)) ** 0.5
    assert all(abs(places[place] - wanted) < bound for place in range(count)), (
      name,
      places,
    )


def test_options_differ_or_their_contexts_do(asked):
  for name, items in asked.items():
    for item in items:
      pairs = set(zip(item.contexts, item.options, strict=True))
      assert len(pairs) == len(item.options), (name, item)


def test_continuations_are_of_the_same_words(asked):
  for item in asked['offline_continuation']:
    words = {tuple(sorted(option.split())) for option in item.options}
    assert len(words) == 1
    assert item.contexts[0].strip()


def test_the_answers_are_in_the_text(asked):
  text = '\0'.join(d for n in offline.DOMAINS for d in offline._documents(n))
  for name, items in asked.items():
    for item in items:
      right = item.contexts[item.answer] + item.options[item.answer]
      assert right in text, (name, item)
  for item in asked['offline_grammar']:
    assert item.options[1 - item.answer] not in text


@pytest.mark.parametrize(
  ('phenomenon', 'good', 'bad'),
  [
    ('agreement', 'The men were old.', 'The men was old.'),
    ('agreement', 'Then he has gone away.', 'Then he have gone away.'),
    ('pronoun', 'He spake unto them, saying.', 'He spake unto they, saying.'),
    ('verb_form', 'It shall be done.', 'It shall been done.'),
    ('word_order', 'So ended the war.', 'So ended war the.'),
    ('agreement', 'Nothing happens here.', None),
  ],
)
def test_a_rule_of_grammar_is_broken(phenomenon, good, bad):
  assert offline.GRAMMAR[phenomenon](good) == bad


def test_ends_of_a_gloss_are_four_plain_words_of_four_domains(asked):
  """So nothing but the words of an end tells where it is from."""
  text = {
    domain: '\0'.join(offline._documents(domain)) for domain in offline.PROSE
  }
  for item in asked['offline_gloss']:
    assert all(re.fullmatch('( [a-z]+){4}', end) for end in item.options)
    wrong = [*item.options]
    del wrong[item.answer]
    for domain in offline.PROSE:
      assert any(
        f'{end}.' in text[domain]
        or f'{end}!' in text[domain]
        or f'{end}?' in text[domain]
        for end in wrong
      ), (domain, item)


def test_no_item_is_in_the_training_text(asked):
  train = '\0'.join(
    long_text.whole(text)
    for domain in offline.DOMAINS
    for text in tasks.Minipile(f'minipile_{domain}').texts('train')
  )
  leaked = [
    (name, item)
    for name, items in asked.items()
    for item in items
    if item.contexts[item.answer] + item.options[item.answer] in train
  ]
  assert not leaked
