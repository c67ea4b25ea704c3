"""Values of items, worked by hand."""

import pytest

from moejax.core import errors
from moejax.evals import scoring
from moejax.evals.benchmark import Choice, Cloze, Likelihood, Prompt


class Table:
  """An engine that looks its answers up: continuation -> (nats, tokens)."""

  def __init__(self, table, texts=()):
    self.table, self.texts, self.asked = table, texts, []

  def likelihoods(self, pairs):
    self.asked.append(list(pairs))
    found = [self.table[pair] for pair in pairs]
    return [Likelihood(nats, nats > -1, tokens) for nats, tokens in found]

  def generate(self, prompts):
    return [self.texts[prompt.text] for prompt in prompts]


def choice(options, answer=0, **changes):
  return Choice(('Q',) * len(options), options, answer, **changes)


def test_each_accuracy_divides_by_its_own_length():
  # nats      characters  bytes  tokens
  # -4.0      2: -2.0     2: -2.00  4: -1.0
  # -4.8      3: -1.6     3: -1.60  2: -2.4
  # -9.0      5: -1.8    10: -0.90  3: -3.0
  options = (' ab', ' abc', ' ééééé')
  table = {
    ('Q', ' ab'): (-4.0, 4),
    ('Q', ' abc'): (-4.8, 2),
    ('Q', ' ééééé'): (-9.0, 3),
  }
  best = {'acc': 0, 'acc_norm': 1, 'acc_bytes': 2, 'acc_tokens': 0}
  for answer in range(3):
    (done,) = scoring.answers(Table(table), [choice(options, answer)])
    assert done.values == {
      name: float(index == answer) for name, index in best.items()
    }
    assert done.output == [-4.0, -4.8, -9.0]


def test_of_equal_options_the_first_is_chosen():
  table = {('Q', ' a'): (-1.0, 1), ('Q', ' b'): (-1.0, 1)}
  first, second = scoring.answers(
    Table(table), [choice((' a', ' b'), 0), choice((' a', ' b'), 1)]
  )
  assert set(first.values.values()) == {1.0}
  assert set(second.values.values()) == {0.0}


def test_mutual_information_subtracts_the_option_without_the_question():
  table = {
    ('Q', ' common'): (-2.0, 1),
    ('Q', ' rare'): (-5.0, 1),
    ('A:', ' common'): (-1.0, 1),
    ('A:', ' rare'): (-9.0, 1),
  }
  (done,) = scoring.answers(
    Table(table), [choice((' common', ' rare'), 1, unconditional='A:')]
  )
  assert done.values['acc'] == 0  # -2 > -5
  assert done.values['acc_mutual'] == 1  # -1 < 4


def test_texts_without_delimiter_normalise():
  table = {('Q', ' x'): (-3.0, 1), ('Q', ' y'): (-4.0, 1)}
  item = choice((' x', ' y'), 1, texts=('1', '1234'))
  (done,) = scoring.answers(Table(table), [item])
  assert done.values['acc'] == 0
  assert done.values['acc_norm'] == 1  # -3 and -1


def test_a_cloze_has_the_parts_of_its_perplexity():
  table = {('It is', ' so é'): (-0.5, 3), ('It is', ' no'): (-2.0, 1)}
  yes, no = scoring.answers(
    Table(table), [Cloze('It is', ' so é'), Cloze('It is', ' no')]
  )
  assert yes.values == {'acc': 1, 'log_prob': -0.5, 'tokens': 3, 'bytes': 6}
  assert no.values['acc'] == 0
  assert no.output == -2.0


def test_items_of_all_kinds_keep_their_order_and_ask_once():
  judge = lambda text: {'exact_match': float(text == '2')}
  table = {('c', ' d'): (-1.0, 1), ('Q', ' a'): (-1.0, 1)}
  engine = Table(table, {'1+1=': '2', '1+2=': '4'})
  items = [
    Prompt('1+1=', judge),
    Cloze('c', ' d'),
    choice((' a',)),
    Prompt('1+2=', judge),
  ]
  done = scoring.answers(engine, items)
  assert done[0].values == {'exact_match': 1.0}
  assert done[1].output == -1.0
  assert done[2].values['acc'] == 1
  assert done[3].values == {'exact_match': 0.0}
  assert done[3].output == '4'
  assert len(engine.asked) == 1


@pytest.mark.parametrize(
  ('item', 'message'),
  [
    (choice((' a', ' b'), 2), 'the answer 2 is none of its 2 options'),
    (choice((' a', ' b'), -1), 'the answer -1 is none'),
    (choice((' a', ' ')), 'option 1 is empty'),
    (Choice(('Q',), (' a', ' b'), 0), 'has 1 contexts but 2 options'),
    (Choice((), (), 0), 'none of its 0 options'),
  ],
)
def test_a_choice_that_is_not_whole_is_an_error(item, message):
  with pytest.raises(errors.InputError, match=message):
    scoring.answers(Table({}), [item])
