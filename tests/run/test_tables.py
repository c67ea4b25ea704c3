"""Rows of values as a table on a terminal."""

import io

import pytest
from rich.console import Console

from moejax.evals import validation
from moejax.run import tables


@pytest.mark.parametrize(
  ('value', 'text'),
  [
    (0.12345, '0.123'),
    (12345, '12,345'),
    (None, '-'),
    ('a text', 'a text'),
    ([[3, 0.41], [0, 0.2]], '3:41% 0:20%'),
  ],
)
def test_a_value_as_text(value, text):
  assert tables.cell(value) == text


def test_a_column_for_each_name_with_a_value_in_some_row():
  rows = {'code': {'loss': 2.0, 'xz': None}, 'bible': {'loss': 1.5, 'new': 7}}
  console = Console(file=io.StringIO(), width=80)
  console.print(tables.table('scores', rows))
  lines = console.file.getvalue().split('\n')
  title, head, _, *body = [line for line in lines if line.strip()]
  assert title.strip() == 'scores'
  assert head.split() == ['loss', 'new']
  assert [line.split() for line in body] == [
    ['code', '2.000', '-'],
    ['bible', '1.500', '7'],
  ]


def test_texts_are_aligned_to_the_left():
  rows = {'one': {'text': 'short', 'n': 1}, 'two': {'text': 'longer', 'n': 10}}
  console = Console(file=io.StringIO(), width=80)
  console.print(tables.table('samples', rows))
  (one,) = (x for x in console.file.getvalue().split('\n') if 'short' in x)
  assert one.rstrip().endswith('short   1')


def test_the_table_of_an_evaluation_breaks_no_word_at_80_columns():
  """Of the longest domain of the minipile; the row is one line."""
  names = ['loss', 'perplexity', 'accuracy', 'tokens']
  row = dict.fromkeys([*names, *validation.BITS], 2.345)
  row |= {'perplexity': 1234.567, 'tokens': 650_000}
  console = Console(file=io.StringIO(), width=80)
  console.print(tables.table('perplexity', {'dictionary': row}))
  lines = console.file.getvalue().split('\n')
  words = [word for line in lines for word in line.split()]
  assert {'dictionary', '1234.567', '650,000', *names} <= {*words}
  assert {'bits', 'byte', 'low', 'high', 'unigram'} <= {*words}
  (values,) = (line for line in lines if '2.345' in line)
  assert len(values.split()) == 1 + len(row)
