"""Text tables: aligned, and nothing of a cell is taken for markup."""

from moejax.core import columns

ROWS = [['name', 'loss', 'note'], ['a[red]b', '2.5', 'x'], ['c', '10.25', '']]


def test_columns_are_flush_left_or_right_with_two_spaces_between():
  assert columns.aligned(ROWS, left=(0, 2)) == [
    'name      loss  note',
    'a[red]b    2.5  x',
    'c        10.25',
  ]


def test_a_markdown_table_says_how_its_columns_are_aligned():
  assert columns.markdown(ROWS, left=(0, 2)) == [
    '| name    |  loss | note |',
    '|:--------|------:|:-----|',
    '| a[red]b |   2.5 | x    |',
    '| c       | 10.25 |      |',
  ]


def test_a_long_cell_is_not_wrapped():
  long = 'x y ' * 300
  assert columns.aligned([['a', long]], left=(0, 1)) == [f'a  {long.rstrip()}']
