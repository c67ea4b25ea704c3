"""Length, quality and repetition, on documents worked by hand."""

import collections
import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moejax.core import errors
from moejax.data.steps import STEPS, base, quality, repetition
from moejax.data.steps.length import Length
from moejax.data.steps.quality import Quality
from moejax.data.steps.repetition import Repetition

# Every bound of these lets every document pass.
ANY_QUALITY = Quality(
  min_words=0,
  max_words=10**6,
  min_word_length=0.0,
  max_word_length=1e6,
  max_symbol_ratio=1e6,
  max_bullet_lines=1.0,
  max_ellipsis_lines=1.0,
  min_words_with_letter=0.0,
)
ANY_REPETITION = Repetition(
  max_lines=1.0,
  max_paragraphs=1.0,
  max_line_characters=1.0,
  max_paragraph_characters=1.0,
  max_top_ngram=(1.0,) * 3,
  max_ngrams=(1.0,) * 6,
)


@pytest.mark.parametrize(
  ('text', 'rule'),
  [
    ('abc', 'min_characters'),
    ('abcd', ''),
    ('äöüß', ''),
    ('äöü', 'min_characters'),  # characters, not bytes
    ('a b d', ''),
    ('abcdef', 'max_characters'),
  ],
)
def test_length_counts_characters(text, rule):
  assert Length(min_characters=4, max_characters=5).examine(text) == rule


def test_without_a_largest_length_none_is_too_long():
  assert not Length(min_characters=0).examine('a' * 10**6)


@pytest.mark.parametrize(
  ('bound', 'text', 'value'),
  [
    # Lengths 1, 2 and 6.
    ('min_word_length', 'a bc defghi', 3.0),
    ('max_word_length', 'a bc defghi', 3.0),
    # One hash sign among four words; then two ellipses among four.
    ('max_symbol_ratio', 'a #b c d', 0.25),
    ('max_symbol_ratio', 'a... b c… #d', 0.5),
    # Two of four lines; the blank one does not count.
    ('max_bullet_lines', '- a\n\n • b\nc\nd', 0.5),
    ('max_ellipsis_lines', 'a...\nb…  \n\nc\nd - e...f', 0.5),
    # 'β' is a letter, '1' and '?' are not.
    ('min_words_with_letter', 'a1 β 1 ?', 0.5),
    # Five characters that are not whitespace, three letters, one digit.
    ('min_letters', 'ab 1?\nc', 0.6),
    ('max_digits', 'ab 1?\nc', 0.2),
  ],
)
def test_each_rule_of_quality_has_its_measure(bound, text, value):
  assert quality.measure(text, text.split())[bound] == pytest.approx(value)
  beyond = 1e-6 if bound.startswith('min') else -1e-6
  at_bound = dataclasses.replace(ANY_QUALITY, **{bound: value})
  assert not at_bound.examine(text)
  beyond_bound = dataclasses.replace(ANY_QUALITY, **{bound: value + beyond})
  assert beyond_bound.examine(text) == bound


def test_the_number_of_words_is_bounded():
  some = dataclasses.replace(ANY_QUALITY, min_words=2, max_words=3)
  rules = [some.examine(' '.join('a' * n)) for n in range(5)]
  assert rules == ['min_words', 'min_words', '', '', 'max_words']


def test_the_defaults_are_those_of_the_paper():
  text = ' '.join(['words'] * 49)
  assert Quality().examine(text) == 'min_words'
  assert not Quality().examine(text + ' words')
  assert Repetition().examine(text).startswith('max_')


def test_running_text_passes():
  text = (
    'When the river rises in spring, the lower fields stand under water for a '
    'week or two.\nFarmers who keep cattle there bring them to higher ground '
    'before the first warm rain.\nNobody remembers a year in which the bridge '
    'itself was closed, though old marks on its pillars tell of one.\n\nThe '
    'museum keeps a map, drawn by hand, that shows how far the flood went.'
  )
  for name in ('length', 'quality', 'repetition'):
    assert not STEPS[name]().examine(text), name


def test_a_text_without_spaces_between_words_needs_other_bounds():
  text = '长江是亚洲第一长河。' * 30
  loose = dataclasses.replace(ANY_QUALITY, min_letters=0.8)
  assert not loose.examine(text)
  assert Quality(min_words=0).examine(text) == 'max_word_length'


@pytest.mark.parametrize(
  ('bound', 'text', 'value'),
  [
    # Of four lines one came before; 2 of its 11 characters.
    ('max_lines', 'ab\n\ncdef\n ab\nghi', 1 / 4),
    ('max_line_characters', 'ab\n\ncdef\n ab\nghi', 2 / 11),
    # Of three paragraphs one came before. Its lines are not paragraphs.
    ('max_paragraphs', 'a\nb\n\nc\n \na\nb', 1 / 3),
    ('max_paragraph_characters', 'a\nb\n\ncc\n\na\nb', 3 / 8),
  ],
)
def test_each_rule_of_repeated_lines_has_its_measure(bound, text, value):
  at_bound = dataclasses.replace(ANY_REPETITION, **{bound: value})
  assert not at_bound.examine(text)
  lower = dataclasses.replace(ANY_REPETITION, **{bound: value - 1e-6})
  assert lower.examine(text) == bound


def test_ngrams_worked_by_hand():
  # 'a b' occurs three times, 6 of 8 characters; no 3-gram occurs twice.
  shares = dict(
    repetition.ngram_shares(['a', 'b', 'c', 'a', 'b', 'd', 'a', 'b'])
  )
  assert shares[2] == 6 / 8
  assert shares[3] == 0
  # A word at a time in a run: 'x x' covers all of it, once.
  shares = dict(repetition.ngram_shares(['x'] * 8))
  assert shares[2] == 1
  # The first 5-gram is no repetition; those behind cover words 2 to 8.
  assert shares[5] == 7 / 8
  # The second of two copies of six words is a repetition.
  words = ['one', 'two', 'three', 'four', 'five', 'six']
  shares = dict(repetition.ngram_shares([*words, 'and', *words]))
  assert shares[5] == shares[6] == 22 / 47
  assert shares[7] == 0


def _slow_shares(words):
  """Sets of tuples; a mask of the characters that are covered."""
  total = sum(map(len, words))
  for n in range(2, 11):
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    if not grams:
      return
    counts = collections.Counter(grams)
    if n < 5:
      top, count = counts.most_common(1)[0]
      starts = [i for i, g in enumerate(grams) if g == top and count > 1]
    else:
      starts = [i for i, gram in enumerate(grams) if gram in grams[:i]]
    covered = {i + j for i in starts for j in range(n)}
    yield n, sum(len(words[i]) for i in covered) / total


@settings(max_examples=80, deadline=None)
@given(st.lists(st.sampled_from(['a', 'bb', 'ccc', 'd']), max_size=40))
def test_ngrams_equal_the_slow_reference(words):
  found = dict(repetition.ngram_shares(words))
  want = dict(_slow_shares(words))
  assert found.keys() == want.keys()
  for n, share in want.items():
    assert found[n] == pytest.approx(share), n


def test_each_ngram_has_its_bound():
  words = ['one', 'two', 'three', 'four', 'five', 'six']
  text = ' '.join([*words, 'and', *words])  # see above
  for at, n in ((0, 5), (1, 6)):
    bounds = [1.0] * 6
    bounds[at] = 0.4
    step = dataclasses.replace(ANY_REPETITION, max_ngrams=tuple(bounds))
    assert step.examine(text) == f'max_ngrams of {n}'
  step = dataclasses.replace(ANY_REPETITION, max_top_ngram=(1.0, 0.5, 1.0))
  assert step.examine('a b c d a b c') == 'max_top_ngram of 3'


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet='ab. \n-#…1…ß', max_size=60))
def test_no_text_is_too_strange(text):
  for name in ('length', 'quality', 'repetition'):
    assert isinstance(STEPS[name]().examine(text), str)
  assert not ANY_QUALITY.examine(text)
  assert not ANY_REPETITION.examine(text)


def test_filters_judge_every_document_by_itself():
  judge = Length(min_characters=2).judge()
  assert [judge(rule) for rule in ('', 'min_characters', '')] == [
    '',
    'min_characters',
    '',
  ]
  for name, step in STEPS.items():
    pure = issubclass(step, base.Filter)
    assert pure == (name in {'length', 'quality', 'repetition'})


@pytest.mark.parametrize(
  ('make', 'match'),
  [
    (
      lambda: Length(min_characters=9, max_characters=8),
      'min_characters=9 is above max_characters=8: length would remove every',
    ),
    (lambda: Length(min_characters=-1), 'min_characters'),
    (
      lambda: Quality(min_words=5, max_words=4),
      'min_words=5 is above max_words=4',
    ),
    (
      lambda: Quality(min_word_length=11.0),
      'min_word_length=11.0 is above max_word_length=10.0',
    ),
    (lambda: Quality(max_digits=1.5), 'max_digits'),
    (lambda: Repetition(max_lines=-0.1), 'max_lines'),
    (lambda: Repetition(max_top_ngram=(0.1, 2.0, 0.1)), 'max_top_ngram'),
    (
      lambda: Repetition(max_ngrams=(0.1,)),
      'one share for each n from 5 to 10, so 6 in all',
    ),
  ],
)
def test_bounds_that_make_no_sense_are_refused_in_one_line(make, match):
  with pytest.raises(errors.InputError, match=match) as error:
    make()
  assert '\n' not in str(error.value)
