"""The offline suite: its items are sound, and say nothing by their form."""

import collections

import pytest
from helpers.benchmark_cases import Case, check

from moejax.evals import prompts
from moejax.evals.benchmark import Choice
from moejax.evals.benchmarks import offline

GLOSS = 'a large stream of water'
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
        'word': 'river',
        'gloss': GLOSS,
        'others': ['cat', 'walk', 'sad'],
        'kind': 'thing',
      }
    ],
    [
      Choice(
        ('cat:', 'river:', 'sad:', 'walk:'),
        (f' {GLOSS}',) * 4,
        1,
        group='thing',
      )
    ],
    {(f'{w}:', f' {GLOSS}'): (-8, 5) for w in ('cat', 'sad', 'walk')}
    | {('river:', f' {GLOSS}'): (-7, 5)},
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
  for name in ('offline_cloze', 'offline_continuation', 'offline_grammar'):
    for item in asked[name]:
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


def test_words_of_a_gloss_are_of_different_kinds(asked):
  kinds = collections.defaultdict(set)
  for kind, word, _ in offline._entries():
    kinds[f'{word}:'].add(kind)
  for item in asked['offline_gloss']:
    assert len(set.union(*(kinds[word] for word in item.contexts))) == 4
