"""The table and the picture of a sweep over methods, from made-up numbers."""

import pytest

from moejax.run import compression_rows


def model(code, prose, **more):
  sets = {
    name: {
      'loss': loss,
      'bits_per_byte': None,
      'rows': [[10 * loss, 10], [30 * loss, 30]],
    }
    for name, loss in (('code', code), ('prose', prose))
  }
  sizes = {'parameters': 1000, 'bytes': 4000, 'tokens_per_s': 50.0}
  return {'sets': sets, 'experts': [4, 4], **sizes, **more}


MEASURED = {
  'm_smoe=2': model(
    2.5, 4.5, method='m_smoe', keep=2, seed=0, experts=[3, 1], parameters=600
  ),
  'full': model(2.0, 3.0),
}


def test_differences_are_to_the_full_model():
  rows = compression_rows.rows(MEASURED)
  assert [(row['model'], row['on']) for row in rows] == [
    ('full', 'code'),
    ('full', 'prose'),
    ('full', 'mean'),
    ('m_smoe=2', 'code'),
    ('m_smoe=2', 'prose'),
    ('m_smoe=2', 'mean'),
  ]
  assert [row['difference'] for row in rows[:3]] == [None] * 3
  assert [row['difference'] for row in rows[3:]] == [0.5, 1.5, 1.0]
  assert rows[5]['kept'] == 2.0
  # The same in all rows of a set.
  assert rows[3]['low'] == rows[3]['high'] == pytest.approx(0.5)


def test_the_table_has_a_column_for_each_set():
  lines = compression_rows.lines(compression_rows.rows(MEASURED))
  assert [line.split() for line in lines[:2]] == [
    ['model', 'experts', 'parameters', 'MB', 'tokens/s', 'code', 'prose']
    + ['mean', 'difference', '95%', 'interval'],
    ['full', '4', '1,000', '0.0', '50', '2.0000', '3.0000', '2.5000', '-', '-'],
  ]
  assert lines[2].split()[:3] == ['m_smoe=2', '2', '600']
  assert '+1.0000' in lines[2]


def test_curves_have_a_line_for_each_method_and_the_full_model():
  from matplotlib.figure import Figure

  axis = Figure().subplots()
  rows = [r for r in compression_rows.rows(MEASURED) if r['on'] == 'mean']
  seeds = [{**rows[1], 'seed': 1, 'score': 4.5}]
  compression_rows.curves(axis, rows + seeds)
  full, method = axis.lines
  assert full.get_ydata()[0] == 2.5
  assert method.get_label() == 'm_smoe'
  assert [*method.get_xdata()] == [2.0]
  assert [*method.get_ydata()] == [4.0]  # of 3.5 and 4.5


def test_the_picture_is_over_experts_bytes_and_speed(tmp_path):
  from matplotlib.figure import Figure

  rows = [r for r in compression_rows.rows(MEASURED) if r['on'] == 'mean']
  rows[1] |= {'bytes': 2_500_000, 'tokens_per_s': 75.0}
  for over, x in (('kept', 2.0), ('bytes', 2.5), ('tokens_per_s', 75.0)):
    axis = Figure().subplots()
    compression_rows.curves(axis, rows, over)
    assert [*axis.lines[1].get_xdata()] == [x]
    assert [*axis.lines[1].get_ydata()] == [3.5]
  every = compression_rows.rows(MEASURED)
  assert compression_rows.draw(every, tmp_path / 'picture.svg') == (
    f'Picture: {tmp_path}/picture.svg'
  )
  text = (tmp_path / 'picture.svg').read_text()
  for title, _ in compression_rows.OVER.values():
    assert text.count(f'<!-- {title} -->') == 3  # of two sets and their mean
