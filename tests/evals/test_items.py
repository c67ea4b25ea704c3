"""Rows become items and items become values, by hand-worked examples."""

import pytest

from moejax.core.errors import InputError
from moejax.evals.benchmark import (
  Benchmark,
  Choice,
  Cloze,
  Dataset,
  Likelihood,
  Prompt,
)
from moejax.evals.items import (
  check_row,
  likelihood_values,
  make_item,
  pairs,
  with_shots,
)

DATASET = Dataset('some/set', '', 'test', {'q': str, 'label': (int, str)})
BENCHMARK = Benchmark(
  DATASET,
  lambda row: Choice((row['q'],) * 2, (' a', ' b'), row['label']),
  'acc',
  show=lambda row: f'{row["q"]} {row["label"]}',
  header=lambda row: f'About {row["q"][0]}.\n\n',
)


def likely(*log_probs_and_tokens):
  """Likelihoods of (log_prob, tokens)."""
  return [Likelihood(p, False, n) for p, n in log_probs_and_tokens]


def test_each_normalisation_has_its_own_winner():
  # Option    characters  bytes  tokens  sum    per char.  per byte  per token
  # 'no'      2           2      1       -1.8   -0.9       -0.9      -1.8
  # 'à côté'  6           9      4       -4.2   -0.7       -0.467    -1.05
  # 'abcdefgh' 8          8      2       -3.6   -0.45      -0.45     -1.8
  options = (' no', ' à côté', ' abcdefgh')
  scored = likely((-1.8, 1), (-4.2, 4), (-3.6, 2))
  values = [
    likelihood_values(Choice(('Q',) * 3, options, answer), scored)
    for answer in range(3)
  ]
  assert [v['acc'] for v in values] == [1, 0, 0]
  assert [v['acc_norm'] for v in values] == [0, 0, 1]
  assert [v['acc_bytes'] for v in values] == [0, 0, 1]
  assert [v['acc_token'] for v in values] == [0, 1, 0]


def test_bytes_differ_from_characters():
  # 'éé' has 2 characters and 4 bytes, 'abc' 3 and 3.
  item = Choice(('', ''), (' éé', ' abc'), 0)
  values = likelihood_values(item, likely((-2.0, 1), (-2.4, 1)))
  # Per character -1.0 and -0.8, per byte -0.5 and -0.8.
  assert (values['acc_norm'], values['acc_bytes']) == (0, 1)


def test_texts_normalise_in_place_of_options():
  item = Choice(('', ''), (' A', ' B'), 1, texts=('x', 'a long text'))
  assert likelihood_values(item, likely((-1, 1), (-2, 1)))['acc_norm'] == 1


def test_first_of_equals_is_the_answer_and_no_strict_one():
  item = Choice(('', ''), (' a', ' b'), 0)
  values = likelihood_values(item, likely((-2, 2), (-2, 2)))
  assert (values['acc'], values['acc_token']) == (1, 1)
  assert (values['acc_strict'], values['acc_token_strict']) == (0, 0)
  values = likelihood_values(item, likely((-2, 2), (-3, 3)))
  assert (values['acc_strict'], values['acc_token_strict']) == (1, 0)


def test_mutual_information_subtracts_the_option_without_question():
  item = Choice(('Q', 'Q'), (' a', ' b'), 1, unconditional='Answer:')
  assert pairs(item) == [
    ('Q', ' a'),
    ('Q', ' b'),
    ('Answer:', ' a'),
    ('Answer:', ' b'),
  ]
  # -1 - (-1) = 0 against -3 - (-5) = 2.
  scored = likely((-1, 1), (-3, 1), (-1, 1), (-5, 1))
  values = likelihood_values(item, scored)
  assert (values['acc'], values['acc_mutual']) == (0, 1)


def test_cloze():
  item = Cloze('The end of the', ' story')
  assert pairs(item) == [('The end of the', ' story')]
  values = likelihood_values(item, [Likelihood(-2.5, True, 2)])
  assert values == {'acc': 1, 'nll': 2.5}


def test_shots_and_header_go_before_every_kind_of_item():
  rows = [{'q': 'one', 'label': 0}, {'q': 'two', 'label': 1}]
  start = 'About t.\n\none 0\n\n'
  item = with_shots(BENCHMARK, rows[1], BENCHMARK.item(rows[1]), rows[:1])
  assert item.contexts == (start + 'two',) * 2
  cloze = with_shots(BENCHMARK, rows[1], Cloze('c', ' t'), rows[:1])
  assert cloze == Cloze(start + 'c', ' t')
  prompt = Prompt('p', lambda text: {})
  shown = with_shots(BENCHMARK, rows[1], prompt, rows[:1])
  assert shown.text == start + 'p'
  assert with_shots(BENCHMARK, rows[1], prompt, []).text == 'About t.\n\np'


@pytest.mark.parametrize(
  ('row', 'message'),
  [
    ({'q': 'x'}, "no column 'label'"),
    ({'q': 'x', 'label': 1.5}, 'of type float, not int or str'),
    ({'q': 'x', 'label': 2}, 'the answer is option 2 of 2'),
    ({'q': 'x', 'label': -1}, 'the answer is option -1 of 2'),
  ],
)
def test_a_bad_row_is_named(row, message):
  with pytest.raises(InputError, match=rf'^set, row 7: .*{message}') as error:
    make_item(BENCHMARK, row, 'set, row 7')
  assert '\n' not in str(error.value)


def test_an_empty_option_is_refused():
  with pytest.raises(InputError, match='option 1 is empty'):
    Choice(('', ''), (' a', ' '), 0)
  with pytest.raises(InputError, match='1 contexts for 2 options'):
    Choice(('',), (' a', ' b'), 0)


def test_shots_without_a_form_are_refused():
  bare = Benchmark(DATASET, BENCHMARK.item, 'acc')
  with pytest.raises(InputError, match='no form for them'):
    with_shots(bare, {}, Cloze('c', ' t'), [{'q': 'x', 'label': 0}])


def test_a_good_row_passes():
  check_row(DATASET, {'q': 'x', 'label': '1', 'more': None})
