"""The numbers that the comparison with other frameworks states of moejax."""

import pathlib
import re

import pytest

from moejax.analysis import MEASURES
from moejax.convert.families import FAMILIES
from moejax.moe.balance import BALANCE
from moejax.moe.routers.scores import SCORES
from moejax.moe.scorers import SCORERS

PAGE = pathlib.Path(__file__).parents[1] / 'docs' / 'others.md'


@pytest.mark.parametrize(
  ('words', 'table'),
  [
    ('scorers', SCORERS),
    ('score functions', SCORES),
    ('balance parts', BALANCE),
    ('measures', MEASURES),
    ('`model_type`s', FAMILIES),
  ],
)
def test_there_are_as_many_as_it_says(words, table):
  (number,) = re.findall(rf'(\d+) {re.escape(words)}', PAGE.read_text())
  assert int(number) == len(table)


def test_every_row_has_a_cell_for_each_framework():
  rows = [
    line for line in PAGE.read_text().splitlines() if line.startswith('| ')
  ]
  wide = [row for row in rows if row.count(' | ') == 5]
  assert len(wide) > 25
  narrow = [row for row in rows if row.count(' | ') == 2]
  assert len(wide) + len(narrow) == len(rows)
